{{/* The pods of a component, as a peer. */}}
{{- define "citemesh.peer" -}}
- podSelector:
    matchLabels:
      {{- include "citemesh.selector" .root | nindent 6 }}
      app.kubernetes.io/component: {{ include "citemesh.kebab" .name }}
{{- end -}}

{{/* A rule for a place outside of the release; without `to` it is anywhere at these ports. */}}
{{- define "citemesh.egress.to" -}}
- ports:
  {{- range .ports }}
    - {port: {{ . }}}
  {{- end }}
  {{- with .to }}
  to:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end -}}

{{- define "citemesh.egress.dns" -}}
{{- with .Values.networkPolicy.egress.dns -}}
# DNS.
- ports:
  {{- range .ports }}
    - {port: {{ . }}, protocol: UDP}
    - {port: {{ . }}, protocol: TCP}
  {{- end }}
  {{- with .to }}
  to:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end -}}
{{- end -}}

{{- define "citemesh.egress.postgres" -}}
# Postgres.
{{- if .Values.stores.postgres.bundled.enabled }}
- ports: [{port: 5432}]
  to:
    {{- include "citemesh.peer" (dict "root" . "name" "postgres") | nindent 4 }}
{{- else }}
{{ include "citemesh.egress.to" .Values.networkPolicy.egress.postgres }}
{{- end }}
{{- end -}}
