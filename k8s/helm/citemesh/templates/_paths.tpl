{{/*
What the outside may ask for: everything but /metrics. Streams of document events last an
hour (CITEMESH_GATEWAY_WATCH_SECONDS), so time-outs are a little longer than that.
*/}}
{{- define "citemesh.paths" -}}
- {path: /, type: Exact}
- {path: /docs, type: Exact}
- {path: /openapi.json, type: Exact}
- {path: /healthz, type: Exact}
- {path: /readyz, type: Exact}
- {path: /console, type: Prefix}
- {path: /v1, type: Prefix}
- {path: /openai, type: Prefix}
- {path: /mcp, type: Prefix}
{{- end -}}
