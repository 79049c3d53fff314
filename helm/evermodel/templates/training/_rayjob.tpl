{{/* What a training run's RayJob is: code adds the name, labels and owner of the run, its entrypoint, and how many workers.
HTTPMode: the operator submits by HTTP; its submitter pod doesn't pass restricted Pod Security. */}}
{{- define "evermodel.rayJobTemplate" -}}
{{- $root := . -}}
{{- $training := .Values.training -}}
{{- $what := dict "root" . "component" "training" -}}
{{- $secrets := list "postgresql" "redis" "s3" -}}
apiVersion: ray.io/v1
kind: RayJob
metadata:
  namespace: {{ .Release.Namespace }}
  labels:
    {{- include "evermodel.objectLabels" $what | nindent 4 }}
spec:
  submissionMode: HTTPMode
  shutdownAfterJobFinishes: true
  ttlSecondsAfterFinished: {{ $training.ttlSecondsAfterFinished }}
  backoffLimit: {{ $training.backoffLimit }}
  activeDeadlineSeconds: {{ $training.activeDeadlineSeconds }}
  rayClusterSpec:
    rayVersion: {{ $training.rayVersion | quote }}
    authOptions: {mode: token}
    {{- if $training.autoscaling.enabled }}
    {{- include "evermodel.autoscaler" . | nindent 4 }}
    {{- end }}
    headGroupSpec:
      rayStartParams:
        dashboard-host: 0.0.0.0
        num-cpus: "0"
      template:
        metadata:
          labels:
            {{- include "evermodel.labels" $what | nindent 12 }}
            evermodel.io/ray: head
        spec:
          {{- include "evermodel.rayPodSettings" (merge (dict "account" "training" "api" $training.autoscaling.enabled "part" $training.head "secrets" $secrets "grace" 15) $what) | nindent 10 }}
          containers:
            - name: ray-head
              {{- include "evermodel.rayContainer" (dict "root" . "env" $training.env "secrets" $secrets "part" $training.head) | nindent 14 }}
              ports:
                - {name: gcs-server, containerPort: 6379}
                - {name: dashboard, containerPort: 8265}
                - {name: client, containerPort: 10001}
                - {name: metrics, containerPort: 8080}
              livenessProbe:
                {{- include "evermodel.rayletProbe" . | nindent 16 }}
                initialDelaySeconds: 30
                periodSeconds: 10
                timeoutSeconds: 10
                failureThreshold: 12
              readinessProbe:
                {{- include "evermodel.rayletProbe" . | nindent 16 }}
                initialDelaySeconds: 5
                periodSeconds: 5
                timeoutSeconds: 5
                failureThreshold: 10
    workerGroupSpecs:
      {{- range $training.workerGroups }}
      - groupName: {{ .name }}
        replicas: {{ .minReplicas }}
        minReplicas: {{ .minReplicas }}
        maxReplicas: {{ .maxReplicas }}
        rayStartParams:
          num-cpus: {{ .cpus | quote }}
          {{- if .gpus }}
          num-gpus: {{ .gpus | quote }}
          {{- end }}
        template:
          metadata:
            labels:
              {{- include "evermodel.labels" $what | nindent 14 }}
              evermodel.io/ray: worker
          spec:
            {{- include "evermodel.rayPodSettings" (merge (dict "account" "training" "part" . "secrets" $secrets "grace" 15 "sharedMemory" .sharedMemory) $what) | nindent 12 }}
            topologySpreadConstraints:
              - maxSkew: 1
                topologyKey: kubernetes.io/hostname
                whenUnsatisfiable: DoNotSchedule
                nodeTaintsPolicy: Honor
                labelSelector:
                  matchLabels:
                    {{- include "evermodel.selector" $what | nindent 20 }}
                    evermodel.io/ray: worker
                matchLabelKeys: [ray.io/cluster]
            containers:
              - name: ray-worker
                {{- include "evermodel.rayContainer" (dict "root" $root "env" $training.env "secrets" $secrets "part" . "gpus" .gpus "gpuResource" .gpuResource) | nindent 16 }}
                ports:
                  - {name: metrics, containerPort: 8080}
                livenessProbe:
                  {{- include "evermodel.rayletProbe" $root | nindent 18 }}
                  initialDelaySeconds: 30
                  periodSeconds: 10
                  timeoutSeconds: 10
                  failureThreshold: 12
                readinessProbe:
                  {{- include "evermodel.rayletProbe" $root | nindent 18 }}
                  initialDelaySeconds: 5
                  periodSeconds: 5
                  timeoutSeconds: 5
                  failureThreshold: 10
      {{- end }}
{{- end -}}
