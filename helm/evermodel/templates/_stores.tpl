{{/* What the internal backends share: one pod with a volume of its own, for trying out. */}}

{{/* Of a StatefulSet's spec. (root, component, part) */}}
{{- define "evermodel.store" -}}
replicas: 1
serviceName: {{ include "evermodel.fullname" .root }}-{{ .component }}
selector:
  matchLabels:
    {{- include "evermodel.selector" . | nindent 4 }}
persistentVolumeClaimRetentionPolicy: {whenDeleted: {{ .part.persistence.whenDeleted }}, whenScaled: Retain}
volumeClaimTemplates:
  - apiVersion: v1
    kind: PersistentVolumeClaim
    metadata:
      name: data
      labels:
        {{- include "evermodel.selector" . | nindent 8 }}
    spec:
      accessModes: [ReadWriteOnce]
      resources: {requests: {storage: {{ .part.persistence.size }}}}
      {{- with .part.persistence.storageClass }}
      storageClassName: {{ . }}
      {{- end }}
{{- end -}}

{{/* (root, component, port, portName) */}}
{{- define "evermodel.storeService" -}}
apiVersion: v1
kind: Service
metadata:
  {{- include "evermodel.metadata" . | nindent 2 }}
spec:
  selector:
    {{- include "evermodel.selector" . | nindent 4 }}
  ports:
    - {name: {{ .portName }}, port: {{ .port }}, targetPort: {{ .portName }}}
{{- end -}}
