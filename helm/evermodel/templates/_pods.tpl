{{/* What every pod has: restricted Pod Security, own places to write, secrets as files, and leaving bad nodes soon. */}}

{{/* The pod's; a third-party image has a numeric user of its own. (uid) */}}
{{- define "evermodel.podSecurity" -}}
runAsNonRoot: true
runAsUser: {{ .uid }}
runAsGroup: {{ .uid }}
fsGroup: {{ .uid }}
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "evermodel.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{/* (root, nodeSelector, tolerations) */}}
{{- define "evermodel.scheduling" -}}
{{- $all := .root.Values.scheduling -}}
tolerations:
  - {key: node.kubernetes.io/not-ready, operator: Exists, effect: NoExecute, tolerationSeconds: {{ $all.evictAfterSeconds }}}
  - {key: node.kubernetes.io/unreachable, operator: Exists, effect: NoExecute, tolerationSeconds: {{ $all.evictAfterSeconds }}}
{{- with concat $all.tolerations (default list .tolerations) }}
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with merge (dict) (default dict .nodeSelector) $all.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $all.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* The pod's settings around its containers. (root, component, uid, api, nodeSelector, tolerations) */}}
{{- define "evermodel.podSettings" -}}
serviceAccountName: {{ include "evermodel.fullname" .root }}-{{ default .component .account }}
automountServiceAccountToken: {{ default false .api }}
enableServiceLinks: false
securityContext:
  {{- include "evermodel.podSecurity" (dict "uid" (default 1000 .uid)) | nindent 2 }}
{{ include "evermodel.scheduling" . }}
{{- end -}}

{{/* Environment of our own images: places, never secrets. (root, env: the component's own) */}}
{{- define "evermodel.env" -}}
- {name: EVERMODEL_PROJECT, value: /etc/evermodel/project}
- {name: HOME, value: /home/evermodel}
- {name: AWS_EC2_METADATA_DISABLED, value: "true"}
- {name: AWS_REGION, value: {{ .root.Values.s3.region }}}
{{- if include "evermodel.hasSecret" (dict "root" .root "key" "s3") }}
- {name: AWS_SHARED_CREDENTIALS_FILE, value: /etc/evermodel/secrets/s3/credentials}
{{- end }}
- {name: POD_NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
- {name: POD_UID, valueFrom: {fieldRef: {fieldPath: metadata.uid}}}
- {name: POD_NAMESPACE, valueFrom: {fieldRef: {fieldPath: metadata.namespace}}}
- {name: NODE_NAME, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}
{{- if eq .root.Values.project.launcher "kfp" }}
- {name: EVERMODEL_PLATFORM, value: /etc/evermodel/project/platform.yaml}
- {name: EVERMODEL_IMAGE, value: {{ include "evermodel.image" (dict "root" .root "name" "control") }}}
- {name: EVERMODEL_RAY_IMAGE, value: {{ include "evermodel.image" (dict "root" .root "name" "ray") }}}
{{- end }}
{{- range $name, $value := .env }}
- {name: {{ $name }}, value: {{ $value | toString | quote }}}
{{- end }}
{{- end -}}

{{/* Where a pod of ours reads and writes. (root, secrets: keys of values) */}}
{{- define "evermodel.mounts" -}}
- {name: project, mountPath: /etc/evermodel/project, readOnly: true}
{{- range .secrets }}
{{- if include "evermodel.hasSecret" (dict "root" $.root "key" .) }}
- {name: secret-{{ . | kebabcase }}, mountPath: /etc/evermodel/secrets/{{ . | kebabcase }}, readOnly: true}
{{- end }}
{{- end }}
- {name: tmp, mountPath: /tmp}
- {name: home, mountPath: /home/evermodel}
{{- end -}}

{{/* (root, secrets, scratch) */}}
{{- define "evermodel.volumes" -}}
- name: project
  projected:
    defaultMode: 0444
    sources:
      - configMap:
          name: {{ include "evermodel.fullname" .root }}-project
      - configMap:
          name: {{ include "evermodel.useCasesConfigMap" .root }}
          items:
            {{- range include "evermodel.useCases" .root | fromJsonArray }}
            - {key: {{ . }}.yaml, path: use_cases/{{ . }}.yaml}
            {{- end }}
{{- range .secrets }}
{{- if include "evermodel.hasSecret" (dict "root" $.root "key" .) }}
{{ include "evermodel.secretVolume" (dict "root" $.root "key" .) }}
{{- end }}
{{- end }}
- name: tmp
  emptyDir: {sizeLimit: {{ default "2Gi" .scratch }}}
- name: home
  emptyDir: {sizeLimit: 1Gi}
{{- end -}}

{{/* A Secret as files that only the pod's group reads. The S3 store's root keys are its own. (root, key) */}}
{{- define "evermodel.secretVolume" -}}
{{- $keys := dict "s3" (list "credentials") "control" (list "tokens.json" "session-key" "serving-token") "serving" (list "tokens.json") -}}
- name: secret-{{ .key | kebabcase }}
  secret:
    secretName: {{ include "evermodel.secret" . }}
    defaultMode: 0440
    items:
      {{- range default (list "password") (index $keys .key) }}
      - {key: {{ . }}, path: {{ . }}}
      {{- end }}
{{- end -}}

{{/* KFP's token, beside the others. (root) */}}
{{- define "evermodel.kfpMount" -}}
{{- if .root.Values.project.kfp.existingSecret }}
- {name: secret-kfp, mountPath: /etc/evermodel/secrets/kfp, readOnly: true}
{{- end }}
{{- end -}}
{{- define "evermodel.kfpVolume" -}}
{{- with .root.Values.project.kfp.existingSecret }}
- name: secret-kfp
  secret: {secretName: {{ . }}, defaultMode: 0440}
{{- end }}
{{- end -}}

{{/* Restarts a pod when what it read at its start has changed. (root) */}}
{{- define "evermodel.checksum" -}}
evermodel.io/project: {{ printf "%s%s" (include "evermodel.profile" .root) (toJson .root.Values.useCases) | sha256sum | trunc 16 | quote }}
{{- end -}}
