{{/* Names, labels and addresses: one place says what everything is called. */}}

{{- define "evermodel.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 30 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) | trunc 30 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* What a selector matches: never changes over a release's life. (root, component) */}}
{{- define "evermodel.selector" -}}
app.kubernetes.io/name: evermodel
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{/* (root, component) */}}
{{- define "evermodel.labels" -}}
{{ include "evermodel.selector" . }}
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Of an object, not of a pod: the version would make every pod start again. (root, component) */}}
{{- define "evermodel.objectLabels" -}}
{{ include "evermodel.labels" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end -}}

{{/* (root, component) → metadata of an object */}}
{{- define "evermodel.metadata" -}}
name: {{ include "evermodel.fullname" .root }}-{{ default .component .name }}
namespace: {{ .root.Release.Namespace }}
labels:
  {{- include "evermodel.objectLabels" . | nindent 2 }}
{{- end -}}

{{/* (root, name): by digest where there is one */}}
{{- define "evermodel.image" -}}
{{- $image := index .root.Values.images .name -}}
{{- if $image.digest -}}
{{ $image.repository }}@{{ $image.digest }}
{{- else -}}
{{ $image.repository }}:{{ required (printf "images.%s.digest is needed (or images.%s.tag)" .name .name) $image.tag }}
{{- end -}}
{{- end -}}

{{/* (root, component): the host name of one of our Services */}}
{{- define "evermodel.host" -}}
{{ include "evermodel.fullname" .root }}-{{ .component }}.{{ .root.Release.Namespace }}.svc.{{ .root.Values.clusterDomain }}
{{- end -}}

{{- define "evermodel.postgresqlHost" -}}
{{- if .Values.postgresql.internal.enabled -}}
{{ include "evermodel.host" (dict "root" . "component" "postgresql") }}
{{- else -}}
{{ required "postgresql.external.host is needed where postgresql.internal.enabled is false" .Values.postgresql.external.host }}
{{- end -}}
{{- end -}}

{{- define "evermodel.postgresqlPort" -}}
{{- ternary 5432 (int .Values.postgresql.external.port) .Values.postgresql.internal.enabled -}}
{{- end -}}

{{- define "evermodel.redisUrl" -}}
{{- if .Values.redis.internal.enabled -}}
redis://{{ include "evermodel.host" (dict "root" . "component" "redis") }}:6379/0
{{- else -}}
{{ required "redis.external.url is needed where redis.internal.enabled is false" .Values.redis.external.url }}
{{- end -}}
{{- end -}}

{{- define "evermodel.broker" -}}
{{- if .Values.kafka.internal.enabled -}}
{{ include "evermodel.host" (dict "root" . "component" "kafka") }}:9092
{{- else -}}
{{ required "kafka.external.brokers is needed where kafka.internal.enabled is false" .Values.kafka.external.brokers }}
{{- end -}}
{{- end -}}

{{- define "evermodel.s3Endpoint" -}}
{{- if .Values.s3.internal.enabled -}}
http://{{ include "evermodel.host" (dict "root" . "component" "s3") }}:7070
{{- else -}}
{{ .Values.s3.external.endpoint }}
{{- end -}}
{{- end -}}

{{/* The state's URI, as pyarrow.fs reads it */}}
{{- define "evermodel.state" -}}
{{- $endpoint := include "evermodel.s3Endpoint" . -}}
s3://{{ .Values.s3.bucket }}/{{ .Values.s3.prefix }}?
{{- if $endpoint -}}
endpoint_override={{ $endpoint }}&scheme={{ ternary "https" "http" (hasPrefix "https://" $endpoint) }}&
{{- end -}}
region={{ .Values.s3.region }}
{{- end -}}

{{- define "evermodel.mlflowUrl" -}}
{{- if .Values.mlflow.internal.enabled -}}
http://{{ include "evermodel.host" (dict "root" . "component" "mlflow") }}:5000
{{- else -}}
{{ required "mlflow.external.url is needed where mlflow.internal.enabled is false" .Values.mlflow.external.url }}
{{- end -}}
{{- end -}}

{{- define "evermodel.servingName" -}}
{{ include "evermodel.fullname" . }}-serving
{{- end -}}

{{/* The Service that the operator keeps in front of the healthy workers of the live cluster */}}
{{- define "evermodel.servingService" -}}
{{ include "evermodel.servingName" . }}-serve-svc
{{- end -}}

{{/* JSON list of the use cases' names, in order */}}
{{- define "evermodel.useCases" -}}
{{- $names := ternary .Values.existingUseCases.names (keys .Values.useCases) (ne .Values.existingUseCases.configMap "") -}}
{{- if and .Values.existingUseCases.configMap .Values.useCases -}}
{{- fail "useCases and existingUseCases.configMap exclude each other" -}}
{{- end -}}
{{- if not $names -}}
{{- fail "no use case: --set-file useCases.NAME=path/to/NAME.yaml (or existingUseCases.configMap and .names)" -}}
{{- end -}}
{{- $names | sortAlpha | toJson -}}
{{- end -}}

{{- define "evermodel.useCasesConfigMap" -}}
{{- .Values.existingUseCases.configMap | default (printf "%s-use-cases" (include "evermodel.fullname" .)) -}}
{{- end -}}

{{/* (root, key): the Secret that `key`.existingSecret names; an error that says what must be in it where there is none */}}
{{- define "evermodel.secret" -}}
{{- $wants := dict
  "control" "tokens.json, session-key and serving-token"
  "serving" "tokens.json"
  "gcsRedis" "password"
  "postgresql" "password"
  "redis" "password"
  "s3" "credentials (and access-key, secret-key for the internal store)" -}}
{{- required (printf "%s.existingSecret is needed: the name of a Secret with %s" .key (index $wants .key)) (index .root.Values .key).existingSecret -}}
{{- end -}}

{{/* "true" where a component may read this Secret at all: external Redis and S3 may need none. (root, key) */}}
{{- define "evermodel.hasSecret" -}}
{{- $part := index .root.Values .key -}}
{{- if or $part.existingSecret (not (hasKey $part "external")) $part.internal.enabled (eq .key "postgresql") -}}true{{- end -}}
{{- end -}}

{{/* After the full name, within the 52 characters of a CronJob; what doesn't fit is told apart by its digest. (root, useCase) */}}
{{- define "evermodel.cronName" -}}
{{- $name := printf "monitoring-%s" (.useCase | replace "_" "-") -}}
{{- $room := sub 51 (len (include "evermodel.fullname" .root)) | int -}}
{{- if gt (len $name) $room -}}
{{- printf "%s-%s" ($name | trunc (int (sub $room 6))) (sha256sum .useCase | trunc 5) -}}
{{- else -}}
{{- $name -}}
{{- end -}}
{{- end -}}
