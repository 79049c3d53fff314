{{/* "true" where this release has pods of a component. (root, component) */}}
{{- define "evermodel.has" -}}
{{- $values := .root.Values -}}
{{- $off := dict
  "ingester" (not $values.ingester.enabled)
  "monitoring" (not $values.monitoring.enabled)
  "features" (not $values.features.enabled)
  "training" (not $values.training.enabled)
  "serving" (not $values.serving.enabled)
  "serving-head" (not $values.serving.enabled)
  "serving-worker" (not $values.serving.enabled)
  "gcs-redis" (not $values.serving.enabled)
  "mlflow" (not $values.mlflow.internal.enabled)
  "postgresql" (not $values.postgresql.internal.enabled)
  "redis" (not $values.redis.internal.enabled)
  "kafka" (not $values.kafka.internal.enabled)
  "s3" (not $values.s3.internal.enabled)
  "uninstall" (not $values.uninstall.hook) -}}
{{- if not (index $off .component) }}true{{ end -}}
{{- end -}}

{{/* Whether to make an object of an API that the cluster may lack. (root, enabled: auto|true|false, api) */}}
{{- define "evermodel.wanted" -}}
{{- $enabled := toString .enabled -}}
{{- if or (eq $enabled "true") (and (eq $enabled "auto") (.root.Capabilities.APIVersions.Has .api)) }}true{{ end -}}
{{- end -}}
