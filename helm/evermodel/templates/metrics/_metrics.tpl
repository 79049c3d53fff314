{{/* "true" where Prometheus is told what to scrape. Without a token it would be answered 401 for ever: `auto` then means no. */}}
{{- define "evermodel.scraped" -}}
{{- $monitor := .Values.metrics.serviceMonitor -}}
{{- if include "evermodel.wanted" (dict "root" . "enabled" $monitor.enabled "api" "monitoring.coreos.com/v1/ServiceMonitor") -}}
{{- if $monitor.tokenSecret.name -}}
true
{{- else if ne (toString $monitor.enabled) "auto" -}}
{{- fail "metrics.serviceMonitor.tokenSecret.name is needed: a Secret with a token of role `viewer` or `service`" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* "true" where there are alerts: they count on the ServiceMonitors' job names */}}
{{- define "evermodel.alerted" -}}
{{- $enabled := toString .Values.metrics.prometheusRule.enabled -}}
{{- if eq $enabled "auto" }}{{ include "evermodel.scraped" . }}{{ else if eq $enabled "true" }}true{{ end -}}
{{- end -}}

{{/* (root, component, service, endpoints: YAML) */}}
{{- define "evermodel.serviceMonitor" -}}
apiVersion: monitoring.coreos.com/v1
kind: ServiceMonitor
metadata:
  {{- include "evermodel.metadata" . | nindent 2 }}
    {{- with .root.Values.metrics.serviceMonitor.labels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  selector:
    matchLabels:
      {{- include "evermodel.selector" . | nindent 6 }}
  endpoints:
    {{- .endpoints | nindent 4 }}
{{- end -}}

{{/* An endpoint that wants a token. (root, port) */}}
{{- define "evermodel.guardedEndpoint" -}}
{{- $monitor := .root.Values.metrics.serviceMonitor -}}
- port: {{ .port }}
  path: /metrics
  interval: {{ $monitor.interval }}
  authorization:
    type: Bearer
    credentials: {name: {{ $monitor.tokenSecret.name }}, key: {{ $monitor.tokenSecret.key }}}
{{- end -}}

{{/* Whose figures: of this release. (root, component) */}}
{{- define "evermodel.job" -}}
{{- $service := ternary (include "evermodel.servingService" .root) (printf "%s-%s" (include "evermodel.fullname" .root) .component) (eq .component "serving") -}}
namespace="{{ .root.Release.Namespace }}",job="{{ $service }}"
{{- end -}}
