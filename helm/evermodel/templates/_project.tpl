{{/* evermodel.yaml of the cluster profile: places, and files that hold secrets */}}
{{- define "evermodel.profile" -}}
{{- $values := .Values -}}
{{- $profile := dict
  "state" (include "evermodel.state" .)
  "scratch" "/tmp/evermodel"
  "feature_repo" "/opt/evermodel/feature_repo"
  "feature_store" "feature_store.cluster.yaml"
  "ledger" (include "evermodel.databaseUrl" (dict "root" . "database" $values.postgresql.databases.ledger))
  "ledger_password_file" "/etc/evermodel/secrets/postgresql/password"
  "mlflow" (include "evermodel.mlflowUrl" .)
  "online_store" (include "evermodel.redisUrl" .)
  "broker" (include "evermodel.broker" .)
  "launcher" $values.project.launcher
  "job" "/etc/evermodel/project/job.yaml"
  "num_workers" (int $values.project.numWorkers)
  "gpus_per_worker" (float64 (default 0 (default dict (first $values.training.workerGroups)).gpus))
  "namespace" .Release.Namespace -}}
{{- if include "evermodel.hasSecret" (dict "root" . "key" "redis") -}}
{{- $_ := set $profile "online_store_password_file" "/etc/evermodel/secrets/redis/password" -}}
{{- end -}}
{{- if $values.training.enabled -}}
{{- $_ := set $profile "ray_job" "/etc/evermodel/project/rayjob.yaml" -}}
{{- end -}}
{{- if $values.serving.enabled -}}
{{- $_ := set $profile "rayservice" (include "evermodel.servingName" .) -}}
{{- $_ := set $profile "serve_url" (printf "http://%s.%s.svc.%s:8000" (include "evermodel.servingService" .) .Release.Namespace $values.clusterDomain) -}}
{{- end -}}
{{- with $values.project.kfp -}}
{{- if .endpoint -}}
{{- $_ := set $profile "kfp_endpoint" .endpoint -}}
{{- if .namespace }}{{ $_ := set $profile "kfp_namespace" .namespace }}{{ end -}}
{{- if .existingSecret }}{{ $_ := set $profile "kfp_token_file" "/etc/evermodel/secrets/kfp/token" }}{{ end -}}
{{- if .caFile }}{{ $_ := set $profile "kfp_ca_file" "/etc/evermodel/secrets/kfp/ca.crt" }}{{ end -}}
{{- else if eq $values.project.launcher "kfp" -}}
{{- fail "project.kfp.endpoint is needed where project.launcher is kfp" -}}
{{- end -}}
{{- end -}}
{{- toYaml (merge (deepCopy $values.project.profile) $profile) -}}
{{- end -}}

{{/* Without password: that is in a file. (root, database) */}}
{{- define "evermodel.databaseUrl" -}}
{{- $values := .root.Values.postgresql -}}
postgresql+psycopg://{{ $values.user }}@{{ include "evermodel.postgresqlHost" .root }}:{{ include "evermodel.postgresqlPort" .root }}/{{ .database }}
{{- if not $values.internal.enabled }}?sslmode={{ $values.external.sslmode }}{{ end -}}
{{- end -}}
