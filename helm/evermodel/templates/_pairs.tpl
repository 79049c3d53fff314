{{/* Who talks to whom: each line is one direction, and makes an egress rule there and an ingress rule here. All else is
denied. `ports` empty: all of them (Ray's own, between the pods of one kind of cluster). */}}
{{- define "evermodel.pairs" -}}
- {from: [control, ingester, monitoring, features, mlflow, pipeline, test], to: postgresql, ports: [5432]}
- {from: [control, monitoring, pipeline], to: mlflow, ports: [5000]}
- {from: [control, ingester, monitoring, features, mlflow, pipeline, training, serving-worker], to: s3, ports: [7070]}
- {from: [control, ingester, features, pipeline, training, serving-worker, test], to: redis, ports: [6379]}
- {from: [ingester, pipeline], to: kafka, ports: [9092]}
- {from: [serving-head], to: gcs-redis, ports: [6379]}
- {from: [control, pipeline, test], to: serving-worker, ports: [8000]}
- {from: [test], to: control, ports: [8080]}
- {from: [serving-head, serving-worker], to: serving-head, ports: []}
- {from: [serving-head, serving-worker], to: serving-worker, ports: []}
- {from: [training], to: training, ports: []}
{{- end -}}

{{/* Peers outside of the release that come in: component, ports, and the value that names them */}}
{{- define "evermodel.outsideIn" -}}
- {to: serving-head, ports: [8265, 8000, 52365], peers: operator}
- {to: training, ports: [8265, 52365], peers: operator}
- {to: serving-worker, ports: [8000], peers: serving}
- {to: control, ports: [8080], peers: control}
- {to: kafka, ports: [9092], peers: kafka}
- {to: mlflow, ports: [5000], peers: mlflow}
- {to: control, ports: [8080], peers: metrics}
- {to: ingester, ports: [9100], peers: metrics}
- {to: serving-worker, ports: [8000, 8080], peers: metrics}
- {to: serving-head, ports: [8080], peers: metrics}
- {to: training, ports: [8080], peers: metrics}
{{- end -}}

{{/* External backends: who goes there, where `networkPolicy.egress` names them */}}
{{- define "evermodel.insideOut" -}}
- {from: [control, ingester, monitoring, features, mlflow, pipeline, test], peers: postgresql}
- {from: [control, ingester, features, pipeline, training, serving-worker, test], peers: redis}
- {from: [ingester, pipeline], peers: kafka}
- {from: [control, ingester, monitoring, features, mlflow, pipeline, training, serving-worker], peers: s3}
- {from: [control, monitoring, pipeline], peers: mlflow}
- {from: [control, monitoring, pipeline], peers: kfp}
{{- end -}}

{{/* Components that use the Kubernetes API */}}
{{- define "evermodel.usesApi" -}}
{{- $uses := list "control" "monitoring" "pipeline" "uninstall" -}}
{{- if .Values.training.autoscaling.enabled }}{{ $uses = append $uses "training" }}{{ end -}}
{{- $uses | toJson -}}
{{- end -}}

{{/* A list of numbers as TCP ports; nothing where it is empty: all of them */}}
{{- define "evermodel.ports" -}}
{{- with . }}
ports:
  {{- range . }}
  - {protocol: TCP, port: {{ . }}}
  {{- end }}
{{- end }}
{{- end -}}
