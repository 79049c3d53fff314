{{/* What Kubeflow Pipelines adds to each step: docs/reference/platform.md. The profile and the use cases are two folders: a
volume can't be mounted inside another one that is read-only. */}}
{{- define "evermodel.platform" -}}
{{- $part := .Values.pipeline -}}
{{- $full := include "evermodel.fullname" . -}}
{{- $environment := dict
  "EVERMODEL_PROJECT" "/etc/evermodel/profile"
  "HOME" "/home/evermodel"
  "AWS_EC2_METADATA_DISABLED" "true"
  "AWS_REGION" .Values.s3.region -}}
{{- $secrets := list -}}
{{- range list "postgresql" "redis" "s3" -}}
{{- if include "evermodel.hasSecret" (dict "root" $ "key" .) -}}
{{- $secrets = append $secrets (dict "name" (include "evermodel.secret" (dict "root" $ "key" .)) "path" (printf "/etc/evermodel/secrets/%s" .)) -}}
{{- end -}}
{{- end -}}
{{- if include "evermodel.hasSecret" (dict "root" . "key" "s3") -}}
{{- $_ := set $environment "AWS_SHARED_CREDENTIALS_FILE" "/etc/evermodel/secrets/s3/credentials" -}}
{{- end -}}
{{- $tolerations := list -}}
{{- range concat .Values.scheduling.tolerations $part.tolerations -}}
{{- $one := omit . "tolerationSeconds" -}}
{{- if hasKey . "tolerationSeconds" }}{{ $_ := set $one "seconds" .tolerationSeconds }}{{ end -}}
{{- $tolerations = append $tolerations $one -}}
{{- end -}}
{{- $amounts := dict "requests" (pick $part.resources.requests "cpu" "memory") "limits" (merge (dict) (pick $part.resources.limits "cpu" "memory") (dict "cpu" (default "4" $part.resources.limits.cpu))) -}}
{{- dict
  "resources" $amounts
  "heavy" $amounts
  "service_account" (printf "%s-pipeline" $full)
  "timeout_seconds" (int $part.activeDeadlineSeconds)
  "heavy_timeout_seconds" (int $part.activeDeadlineSeconds)
  "environment" (merge (dict) $part.env $environment)
  "secrets" $secrets
  "config_maps" (list
    (dict "name" (printf "%s-project" $full) "path" "/etc/evermodel/profile")
    (dict "name" (include "evermodel.useCasesConfigMap" .) "path" "/etc/evermodel/project/use_cases"))
  "tolerations" $tolerations
  "node_selector" (merge (dict) $part.nodeSelector .Values.scheduling.nodeSelector)
  "labels" (include "evermodel.labels" (dict "root" . "component" "pipeline") | fromYaml)
  | toYaml -}}
{{- end -}}
