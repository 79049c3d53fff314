{{/* Pods of Ray clusters: of serving, and of the RayJobs that training runs start. */}}

{{/* A Ray pod but for its container's own part.
(root, component, account, part: nodeSelector, tolerations; secrets, sharedMemory, api, grace) */}}
{{- define "evermodel.rayPodSettings" -}}
{{ include "evermodel.podSettings" (dict "root" .root "component" .component "account" .account "api" .api "nodeSelector" .part.nodeSelector "tolerations" .part.tolerations) }}
terminationGracePeriodSeconds: {{ .grace }}
volumes:
  {{- include "evermodel.volumes" (dict "root" .root "secrets" .secrets "scratch" (default "4Gi" .scratch)) | nindent 2 }}
  - name: shm
    emptyDir: {medium: Memory, sizeLimit: {{ default "256Mi" .sharedMemory }}}
{{- end -}}

{{/* Head and workers alike. (root, env, secrets, part: resources; gpus, gpuResource) */}}
{{- define "evermodel.rayContainer" -}}
image: {{ include "evermodel.image" (dict "root" .root "name" "ray") }}
imagePullPolicy: {{ .root.Values.images.ray.pullPolicy }}
env:
  {{- include "evermodel.env" (dict "root" .root "env" .env) | nindent 2 }}
securityContext:
  {{- include "evermodel.containerSecurity" .root | nindent 2 }}
resources:
  {{- $resources := deepCopy .part.resources }}
  {{- if .gpus }}
  {{- $_ := set $resources "limits" (merge (dict .gpuResource .gpus) (default dict $resources.limits)) }}
  {{- end }}
  {{- toYaml $resources | nindent 2 }}
volumeMounts:
  {{- include "evermodel.mounts" (dict "root" .root "secrets" .secrets) | nindent 2 }}
  - {name: shm, mountPath: /dev/shm}
{{- end -}}

{{/* This raylet lives: open whatever the token mode. */}}
{{- define "evermodel.rayletProbe" -}}
httpGet: {path: /api/local_raylet_healthz, port: 52365}
{{- end -}}

{{/* Own labels, and the cluster's: in an update a new cluster's pods spread by themselves. A node that is being emptied
doesn't count. (root, component, whenUnsatisfiable) */}}
{{- define "evermodel.spread" -}}
- maxSkew: 1
  topologyKey: kubernetes.io/hostname
  whenUnsatisfiable: {{ .whenUnsatisfiable }}
  nodeTaintsPolicy: Honor
  labelSelector:
    matchLabels:
      {{- include "evermodel.selector" . | nindent 6 }}
  matchLabelKeys: [ray.io/cluster]
{{- end -}}

{{- define "evermodel.autoscaler" -}}
enableInTreeAutoscaling: true
autoscalerOptions:
  version: v2
  idleTimeoutSeconds: {{ .Values.training.autoscaling.idleTimeoutSeconds }}
  imagePullPolicy: {{ .Values.images.ray.pullPolicy }}
  securityContext:
    {{- include "evermodel.containerSecurity" . | nindent 4 }}
  resources:
    {{- toYaml .Values.training.autoscaling.resources | nindent 4 }}
  volumeMounts:
    - {name: tmp, mountPath: /tmp}
    - {name: home, mountPath: /home/evermodel}
  env:
    - {name: HOME, value: /home/evermodel}
{{- end -}}
