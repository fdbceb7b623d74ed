{{/* The environment of a component that is secret: references, never values. */}}
{{- define "citemesh.secrets" -}}
{{- $stores := .root.Values.stores -}}
{{- $service := .component.service -}}
{{- if .component.usesDatabase }}
- name: CITEMESH_{{ upper $service }}_DATABASE_URL
  valueFrom: {secretKeyRef: {name: {{ $stores.postgres.existingSecret }}, key: {{ $service }}-url}}
{{- if $stores.postgres.direct }}
- name: CITEMESH_{{ upper $service }}_DIRECT_DATABASE_URL
  valueFrom: {secretKeyRef: {name: {{ $stores.postgres.existingSecret }}, key: {{ $service }}-direct-url}}
{{- end }}
{{- end }}
{{- if and (eq $service "retrieval") $stores.opensearch.existingSecret }}
{{- if eq $stores.opensearch.authentication "basic" }}
- name: CITEMESH_OPENSEARCH_USER
  valueFrom: {secretKeyRef: {name: {{ $stores.opensearch.existingSecret }}, key: user}}
- name: CITEMESH_OPENSEARCH_PASSWORD
  valueFrom: {secretKeyRef: {name: {{ $stores.opensearch.existingSecret }}, key: password}}
{{- else if eq $stores.opensearch.authentication "bearer" }}
- name: CITEMESH_OPENSEARCH_BEARER_TOKEN
  valueFrom: {secretKeyRef: {name: {{ $stores.opensearch.existingSecret }}, key: token}}
{{- end }}
{{- end }}
{{- if and (eq $service "ingestion") $stores.blobs.existingSecret }}
- name: AWS_ACCESS_KEY_ID
  valueFrom: {secretKeyRef: {name: {{ $stores.blobs.existingSecret }}, key: access-key-id}}
- name: AWS_SECRET_ACCESS_KEY
  valueFrom: {secretKeyRef: {name: {{ $stores.blobs.existingSecret }}, key: secret-access-key}}
{{- end }}
{{- if and (eq $service "gateway") $stores.limits.existingSecret }}
- name: CITEMESH_GATEWAY_LIMITS_STORAGE
  valueFrom: {secretKeyRef: {name: {{ $stores.limits.existingSecret }}, key: url}}
{{- end }}
{{- if and .component.callsProviders .root.Values.providers.existingSecret }}
{{- range list "GEMINI_API_KEY" "COHERE_API_KEY" "ANTHROPIC_API_KEY" }}
- name: {{ . }}
  valueFrom: {secretKeyRef: {name: {{ $.root.Values.providers.existingSecret }}, key: {{ . }}, optional: true}}
{{- end }}
{{- end }}
{{- end -}}
