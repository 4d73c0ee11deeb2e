{{- define "fedtune.labels" -}}
app.kubernetes.io/name: fedtune-coordinator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "fedtune.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{- define "fedtune.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities:
  drop: [ALL]
{{- end }}
