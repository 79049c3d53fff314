{{/* The Job launcher's template: code adds the name, the labels of the run, and the command's arguments. */}}
{{- define "evermodel.jobTemplate" -}}
{{- $what := dict "root" . "component" "pipeline" -}}
{{- $secrets := list "postgresql" "redis" "s3" -}}
{{- $part := .Values.pipeline -}}
apiVersion: batch/v1
kind: Job
metadata:
  namespace: {{ .Release.Namespace }}
  labels:
    {{- include "evermodel.objectLabels" $what | nindent 4 }}
spec:
  backoffLimit: {{ $part.backoffLimit }}
  podReplacementPolicy: Failed  # one pod at a time: the next takes over the leases of the one before
  activeDeadlineSeconds: {{ $part.activeDeadlineSeconds }}
  ttlSecondsAfterFinished: {{ $part.ttlSecondsAfterFinished }}
  template:
    metadata:
      labels:
        {{- include "evermodel.labels" $what | nindent 8 }}
    spec:
      {{- include "evermodel.podSettings" (merge (dict "api" true "nodeSelector" $part.nodeSelector "tolerations" $part.tolerations) $what) | nindent 6 }}
      restartPolicy: Never
      terminationGracePeriodSeconds: 60
      containers:
        - name: pipeline
          image: {{ include "evermodel.image" (dict "root" . "name" "ray") }}
          imagePullPolicy: {{ .Values.images.ray.pullPolicy }}
          command: [python, -m, pipelines, run]
          env:
            {{- include "evermodel.env" (dict "root" . "env" $part.env) | nindent 12 }}
          securityContext:
            {{- include "evermodel.containerSecurity" . | nindent 12 }}
          resources:
            {{- toYaml $part.resources | nindent 12 }}
          volumeMounts:
            {{- include "evermodel.mounts" (dict "root" . "secrets" $secrets) | nindent 12 }}
            - {name: shm, mountPath: /dev/shm}
      volumes:
        {{- include "evermodel.volumes" (dict "root" . "secrets" $secrets "scratch" $part.scratch) | nindent 8 }}
        - name: shm
          emptyDir: {medium: Memory, sizeLimit: 512Mi}
{{- end -}}

{{/* What the Job launcher asks: start a Job by server-side apply, find it again, wait for it, read its log, remove it. */}}
{{- define "evermodel.launcherRules" -}}
- apiGroups: [batch]
  resources: [jobs]
  verbs: [create, get, patch, delete]
- apiGroups: [""]
  resources: [pods]
  verbs: [list]
- apiGroups: [""]
  resources: [pods/log]
  verbs: [get]
{{- end -}}
