{{/*
The environment of a component that is no secret, as a map; becomes its ConfigMap. What
`config` says comes last and wins.
*/}}
{{- define "citemesh.configuration" -}}
{{- $root := .root -}}
{{- $component := .component -}}
{{- $values := $root.Values -}}
{{- $fullname := include "citemesh.fullname" $root -}}
{{- $prefix := printf "CITEMESH_%s" (upper $component.service) -}}
{{- $port := ternary $values.ports.http $values.ports.grpc (eq $component.name "gateway") -}}
{{- $set := dict
      "CITEMESH_LISTEN" (printf "0.0.0.0:%v" $port)
      "CITEMESH_DRAIN_SECONDS" (toString .own.drainSeconds)
      "CITEMESH_IDENTITY_KEYS" "/etc/citemesh/keyring/keyring.json" -}}
{{- if $values.tls.enabled -}}
{{- range $part, $file := dict "CERT" "tls.crt" "KEY" "tls.key" "CA" "ca.crt" -}}
{{- $_ := set $set (printf "CITEMESH_TLS_%s_FILE" $part) (printf "/etc/citemesh/tls/%s" $file) -}}
{{- end -}}
{{- if ne $component.name "gateway" -}}
{{- $_ := set $set "CITEMESH_HEALTH_LISTEN" (printf "0.0.0.0:%v" $values.ports.health) -}}
{{- end -}}
{{- end -}}
{{- if $values.telemetry.metrics.enabled -}}
{{- $_ := set $set "CITEMESH_METRICS_LISTEN" (printf "0.0.0.0:%v" $values.ports.metrics) -}}
{{- end -}}
{{- if $component.signs -}}
{{- $_ := set $set (printf "%s_SIGNING_KEY" $prefix) "/etc/citemesh/signing/signing.key" -}}
{{- end -}}
{{- range concat $component.calls $component.observes -}}
{{- $_ := set $set (printf "CITEMESH_%s_ADDRESS" (upper .)) (printf "dns:///%s-%s:%v" $fullname (include "citemesh.kebab" .) $values.ports.grpc) -}}
{{- end -}}
{{- $set = merge $set $component.environment (include (printf "citemesh.configuration.%s" $component.service) . | fromYaml) -}}
{{- if $component.callsProviders -}}
{{- range $provider, $url := $values.providers.baseUrls -}}
{{- $_ := set $set (printf "CITEMESH_%s_BASE_URL" (upper $provider)) $url -}}
{{- end -}}
{{- /* Together the replicas stay within the providers' quotas. */ -}}
{{- $_ := set $set "CITEMESH_PROVIDER_SHARE" (divf 1 (include "citemesh.mostReplicas" . | float64) | printf "%.4f") -}}
{{- end -}}
{{- with $values.telemetry.otlp -}}
{{- if .endpoint -}}
{{- $_ := set $set "OTEL_EXPORTER_OTLP_ENDPOINT" .endpoint -}}
{{- $_ := set $set "OTEL_EXPORTER_OTLP_PROTOCOL" .protocol -}}
{{- $_ := set $set "OTEL_TRACES_SAMPLER" .sampler -}}
{{- $_ := set $set "OTEL_TRACES_SAMPLER_ARG" .samplerArgument -}}
{{- if not .metrics -}}{{- $_ := set $set "OTEL_METRICS_EXPORTER" "none" -}}{{- end -}}
{{- end -}}
{{- end -}}
{{- if $values.caBundle.configMap -}}
{{- $file := "/etc/citemesh/ca/ca.crt" -}}
{{- range list "SSL_CERT_FILE" "OTEL_EXPORTER_OTLP_CERTIFICATE" -}}
{{- $_ := set $set . $file -}}
{{- end -}}
{{- if eq $component.service "retrieval" -}}{{- $_ := set $set "CITEMESH_OPENSEARCH_CA_FILE" $file -}}{{- end -}}
{{- if eq $component.service "ingestion" -}}{{- $_ := set $set "AWS_CA_BUNDLE" $file -}}{{- end -}}
{{- end -}}
{{- $set = mergeOverwrite $set $values.config (default dict .own.config) -}}
{{- range $name, $value := $set }}
{{- /* Numbers of values are floating ones, and a large one would be written as 2.68e+08. */}}
{{- if and (kindIs "float64" $value) (eq (floor $value) $value) }}
{{ $name }}: {{ printf "%.0f" $value | quote }}
{{- else }}
{{ $name }}: {{ $value | toString | quote }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "citemesh.configuration.guardrail" -}}
{}
{{- end -}}

{{- define "citemesh.configuration.embedding" -}}
CITEMESH_EMBEDDING_SPACES: {{ .root.Values.models.spaces | quote }}
{{- end -}}

{{- define "citemesh.configuration.rerank" -}}
CITEMESH_RERANK_PROVIDERS: {{ .root.Values.models.rerank | quote }}
{{- end -}}

{{- define "citemesh.configuration.generation" -}}
CITEMESH_GENERATION_PROVIDERS: {{ .root.Values.models.generation | quote }}
{{- end -}}

{{- define "citemesh.configuration.retrieval" -}}
{{- with include "citemesh.opensearchUrl" .root -}}
CITEMESH_OPENSEARCH_URL: {{ . | quote }}
{{- else -}}
CITEMESH_RETRIEVAL_LEXICAL_DIR: /var/lib/citemesh/lexical
{{- end -}}
{{- end -}}

{{- define "citemesh.configuration.ingestion" -}}
{{- with .root.Values.stores.blobs -}}
CITEMESH_BLOB_URL: {{ .url | quote }}
{{- with .endpointUrl }}
AWS_ENDPOINT_URL_S3: {{ . | quote }}
{{- end }}
{{- with .region }}
AWS_REGION: {{ . | quote }}
{{- end }}
{{- end }}
# They share the tokens a minute of a space's provider.
CITEMESH_INGESTION_REPLICAS: {{ include "citemesh.mostReplicas" . | quote }}
{{- with .root.Values.clamav.address }}
CITEMESH_CLAMAV_ADDRESS: {{ . | quote }}
{{- end }}
{{- end -}}

{{- define "citemesh.configuration.gateway" -}}
CITEMESH_GATEWAY_ANSWER_SECONDS: {{ .root.Values.gateway.answerSeconds | quote }}
CITEMESH_GATEWAY_NOTICE_SECONDS: {{ .root.Values.gateway.noticeSeconds | quote }}
{{- with .root.Values.gateway.trustedProxies }}
CITEMESH_GATEWAY_TRUSTED_PROXIES: {{ join "," . | quote }}
{{- end }}
{{- end -}}
