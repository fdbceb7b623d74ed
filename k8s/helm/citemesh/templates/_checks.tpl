{{/*
What would lose data, leak a secret or never start is refused before anything is installed,
each with one sentence that names the value.
*/}}
{{- define "citemesh.checks" -}}
{{- include "citemesh.checks.services" . -}}
{{- include "citemesh.checks.stores" . -}}
{{- include "citemesh.checks.models" . -}}
{{- include "citemesh.checks.secrets" . -}}
{{- include "citemesh.checks.config" . -}}
{{- if and (or .Values.gateway.ingress.enabled .Values.gateway.httpRoute.enabled) (not .Values.gateway.trustedProxies) -}}
{{- fail "gateway.trustedProxies must name the networks of the proxies in front of the gateway: without it every caller has the proxy's address, and whoever sends wrong keys locks everybody out." -}}
{{- end -}}
{{- if and .Values.telemetry.podMonitor.enabled (not .Values.telemetry.metrics.enabled) -}}
{{- fail "telemetry.podMonitor.enabled scrapes a port that telemetry.metrics.enabled=false does not open." -}}
{{- end -}}
{{- if and .Values.telemetry.podMonitor.enabled .Values.telemetry.otlp.metrics -}}
{{- fail "telemetry.otlp.metrics and telemetry.podMonitor.enabled would count everything twice; choose one." -}}
{{- end -}}
{{- end -}}

{{- define "citemesh.checks.services" -}}
{{- $known := list -}}
{{- range $component := (include "citemesh.components" . | fromYaml).components -}}
{{- $known = append $known $component.name -}}
{{- $own := include "citemesh.own" (dict "root" $ "component" $component) | fromYaml -}}
{{- $it := dict "root" $ "component" $component "own" $own -}}
{{- $most := include "citemesh.mostReplicas" $it | int -}}
{{- with $own.autoscaling -}}
{{- if and .enabled (gt (int .minReplicas) (int .maxReplicas)) -}}
{{- fail (printf "services.%s.autoscaling.minReplicas is more than maxReplicas." $component.name) -}}
{{- end -}}
{{- end -}}
{{- if and (gt $most 1) (include "citemesh.volume" $it) -}}
{{- if eq $component.name "retrieval" -}}
{{- fail (printf "The lexical index inside retrieval has one writer, but services.retrieval may have %d replicas: set stores.opensearch.url, or one replica without autoscaling." $most) -}}
{{- else -}}
{{- fail (printf "A directory of source files belongs to one replica, but services.ingestion may have %d: set stores.blobs.url to s3://..., or one replica without autoscaling." $most) -}}
{{- end -}}
{{- end -}}
{{- if and (has $component.name (list "gateway" "generation")) (le (int $own.drainSeconds) (int $.Values.gateway.answerSeconds)) -}}
{{- fail (printf "services.%s.drainSeconds is %v, and answers may take gateway.answerSeconds (%v): a rolling update would cut them off." $component.name $own.drainSeconds $.Values.gateway.answerSeconds) -}}
{{- end -}}
{{- if and (eq $component.name "gateway") (gt $most 1) (not $.Values.stores.limits.existingSecret) -}}
{{- fail (printf "Limits are counted in the memory of each gateway, and there may be %d, which together let through %d times as much: name a Secret with the URL of a Redis or Valkey in stores.limits.existingSecret, or set one gateway without autoscaling." $most $most) -}}
{{- end -}}
{{- end -}}
{{- range $name := keys .Values.services -}}
{{- if not (has $name $known) -}}
{{- fail (printf "services.%s is no component of the mesh; they are %s." $name (join ", " $known)) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "citemesh.checks.stores" -}}
{{- $stores := .Values.stores -}}
{{- if not $stores.postgres.existingSecret -}}
{{- fail "stores.postgres.existingSecret must name the Secret with the URLs of Postgres (docs/operations/kubernetes.md)." -}}
{{- end -}}
{{- if not $stores.blobs.url -}}
{{- fail "stores.blobs.url must say where source files are kept: s3://bucket/prefix, or file:///path in a volume for one replica of ingestion." -}}
{{- end -}}
{{- if and $stores.postgres.bundled.enabled (include "citemesh.migratesInHook" .) -}}
{{- fail "migrations.hook would wait for the Postgres that is installed after it; leave it at auto with stores.postgres.bundled." -}}
{{- end -}}
{{- if and (ne $stores.opensearch.authentication "none") (not $stores.opensearch.existingSecret) (not $stores.opensearch.bundled.enabled) -}}
{{- fail "stores.opensearch.authentication needs stores.opensearch.existingSecret." -}}
{{- end -}}
{{- if ne .Values.profile "dev" -}}
{{- if or $stores.postgres.bundled.enabled $stores.opensearch.bundled.enabled -}}
{{- fail (printf "The stores that come with the chart have no standby and no backup: profile %s takes external ones." .Values.profile) -}}
{{- end -}}
{{- if not $stores.opensearch.url -}}
{{- fail (printf "Profile %s needs an OpenSearch: set stores.opensearch.url." .Values.profile) -}}
{{- end -}}
{{- if include "citemesh.hasDirectoryBlobs" . -}}
{{- fail (printf "Profile %s keeps source files in S3: set stores.blobs.url to s3://bucket/prefix." .Values.profile) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "citemesh.checks.models" -}}
{{- $named := splitList "," (printf "%s,%s,%s" .Values.models.spaces .Values.models.rerank .Values.models.generation) -}}
{{- range $named -}}
{{- $provider := trim . | splitList "/" | first -}}
{{- if ne $provider "local" -}}
{{- if eq $.Values.profile "airgap" -}}
{{- fail (printf "models names %s, which is outside: profile airgap has local models only." (trim .)) -}}
{{- end -}}
{{- if not $.Values.providers.existingSecret -}}
{{- fail (printf "models names %s: providers.existingSecret must name the Secret with its key." (trim .)) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if and (eq .Values.profile "airgap") (or .Values.providers.existingSecret .Values.providers.baseUrls) -}}
{{- fail "Profile airgap calls no provider: leave providers empty." -}}
{{- end -}}
{{- end -}}

{{- define "citemesh.checks.secrets" -}}
{{- $secret := "(PASSWORD|TOKEN|_API_KEY|SECRET|SECRET_ACCESS_KEY|DATABASE_URL|_HEADERS)$" -}}
{{- $maps := dict "config" .Values.config -}}
{{- $lists := dict "extraEnv" .Values.extraEnv -}}
{{- range $name, $own := .Values.services -}}
{{- $_ := set $maps (printf "services.%s.config" $name) (default dict $own.config) -}}
{{- $_ := set $lists (printf "services.%s.extraEnv" $name) (default list $own.extraEnv) -}}
{{- end -}}
{{- range $where, $map := $maps -}}
{{- range $name, $value := $map -}}
{{- if or (regexMatch $secret $name) (regexMatch "://[^/@]*:[^/@]+@" (toString $value)) -}}
{{- fail (printf "%s.%s is a secret in plain text: put it into a Secret and refer to it by extraEnv." $where $name) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- range $where, $list := $lists -}}
{{- range $list -}}
{{- if and .value (or (regexMatch $secret .name) (regexMatch "://[^/@]*:[^/@]+@" .value)) -}}
{{- fail (printf "%s has %s in plain text: refer to a Secret by valueFrom." $where .name) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if ne .Values.profile "dev" -}}
{{- $names := concat (list .Values.identity.keyringSecret .Values.stores.postgres.existingSecret) (values .Values.identity.signingSecrets) -}}
{{- range $names -}}
{{- $found := lookup "v1" "Secret" $.Release.Namespace . -}}
{{- if eq (dig "metadata" "labels" "citemesh.io/made-for" "" (default dict $found)) "development" -}}
{{- fail (printf "Secret %s was made for development (tools.k8s.secrets): profile %s takes one of your own." . $.Values.profile) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* A process refuses to start with a variable of its own that it does not know; so does this. */}}
{{- define "citemesh.checks.config" -}}
{{- $read := .Files.Get "variables.yaml" | fromYaml -}}
{{- $anybody := $read.everywhere -}}
{{- range $name, $component := $read.components -}}
{{- $known := concat $read.everywhere $component.settings $component.libraries -}}
{{- $anybody = concat $anybody $known -}}
{{- range $variable, $_ := default dict (get $.Values.services $name).config -}}
{{- if not (has $variable $known) -}}
{{- fail (printf "services.%s.config: %s reads no %s (docs/configuration.md); what something else in its container reads belongs into extraEnv." $name $name $variable) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- range $variable, $_ := .Values.config -}}
{{- if not (has $variable $anybody) -}}
{{- fail (printf "config: nobody reads %s (docs/configuration.md); what something else in the containers reads belongs into extraEnv." $variable) -}}
{{- end -}}
{{- end -}}
{{- end -}}
