{{- define "otel-connect.name" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 63 | trimSuffix "-" }}{{ else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 63 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "otel-connect.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "otel-connect.labels" -}}
{{ include "otel-connect.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "otel-connect.serviceAccount" -}}
{{ .Values.serviceAccount.name | default (ternary (include "otel-connect.name" .) "default" .Values.serviceAccount.create) }}
{{- end }}

{{- define "otel-connect.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{- define "otel-connect.seccomp" -}}
{{- if eq .Values.seccomp.profile "runtimeDefault" -}}
type: RuntimeDefault
{{- else if eq .Values.seccomp.profile "unconfined" -}}
type: Unconfined
{{- else -}}
type: Localhost
localhostProfile: otel-connect.json
{{- end }}
{{- end }}
