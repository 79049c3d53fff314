{{/* What Serve runs. A promotion is `user_config` of the live object, written by the control service: an upgrade keeps it. */}}

{{/* JSON of the live object's user_config of Models, or of nothing. `lookup` finds nothing in `helm template`. (root) */}}
{{- define "evermodel.liveUserConfig" -}}
{{- $live := dict -}}
{{- $object := lookup "ray.io/v1" "RayService" .Release.Namespace (include "evermodel.servingName" .) -}}
{{- if $object -}}
{{- range (dig "spec" "serveConfigV2" "{}" $object | fromYaml).applications -}}
{{- range .deployments -}}
{{- if eq .name "Models" -}}{{- $live = default dict (default dict .user_config).use_cases -}}{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- $kept := dict -}}
{{- range include "evermodel.useCases" . | fromJsonArray -}}
{{- $_ := set $kept . (default dict (index $live .)) -}}
{{- end -}}
{{- dict "use_cases" $kept | toJson -}}
{{- end -}}

{{- define "evermodel.serveConfig" -}}
{{- $serving := .Values.serving -}}
{{- if gt (int $serving.replicas) (int $serving.workers) -}}
{{- fail "serving.replicas is at most serving.workers: a worker pod holds one replica of each deployment" -}}
{{- end -}}
{{- $uris := dict -}}
{{- range include "evermodel.useCases" . | fromJsonArray -}}
{{- $_ := set $uris . (printf "/etc/evermodel/project/use_cases/%s.yaml" .) -}}
{{- end -}}
{{- $args := dict
  "use_cases" $uris
  "state" (include "evermodel.state" .)
  "online_store" (include "evermodel.redisUrl" .)
  "tokens_file" "/etc/evermodel/secrets/serving/tokens.json"
  "ingress_replicas" (int $serving.replicas)
  "model_replicas" (int $serving.replicas)
  "num_gpus" $serving.gpus
  "drain_seconds" $serving.drainSeconds -}}
{{- if include "evermodel.hasSecret" (dict "root" . "key" "redis") -}}
{{- $_ := set $args "online_store_password_file" "/etc/evermodel/secrets/redis/password" -}}
{{- end -}}
{{- $placed := dict "max_replicas_per_node" 1 "max_surge_percent" 0 -}}
{{- /* no surge: with one replica a pod, a new one finds no place while the old one stands */ -}}
{{- dict
  "proxy_location" "EveryNode"
  "http_options" (dict "host" "0.0.0.0" "port" 8000 "request_timeout_s" $serving.requestTimeoutSeconds "keep_alive_timeout_s" 30)
  "logging_config" (dict "enable_access_log" false "log_level" "WARNING" "encoding" "JSON")
  "applications" (list (dict
    "name" "evermodel"
    "route_prefix" "/"
    "import_path" "serving.app:build"
    "args" (merge (deepCopy $serving.args) $args)
    "deployments" (list
      (merge (dict "name" "Ingress") $placed)
      (merge (dict "name" "Models" "user_config" (include "evermodel.liveUserConfig" . | fromJson)) $placed))))
  | toYaml -}}
{{- end -}}
