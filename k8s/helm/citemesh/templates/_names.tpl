{{/* The name everything of this release begins with. */}}
{{- define "citemesh.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* What selects the pods of this release; never changes, because a Deployment's may not. */}}
{{- define "citemesh.selector" -}}
app.kubernetes.io/name: citemesh
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "citemesh.labels" -}}
{{ include "citemesh.selector" . }}
app.kubernetes.io/version: {{ include "citemesh.tag" . | quote }}
app.kubernetes.io/part-of: citemesh
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "citemesh.tag" -}}
{{- .Values.image.tag | default .Chart.AppVersion -}}
{{- end -}}

{{/* "embedding_bulk" -> "embedding-bulk": a component's name in Kubernetes. */}}
{{- define "citemesh.kebab" -}}
{{- . | replace "_" "-" -}}
{{- end -}}

{{/* Image of a service; both lanes of embedding run the same one. */}}
{{- define "citemesh.image" -}}
{{- printf "%s/citemesh-%s:%s" .root.Values.image.registry .service (include "citemesh.tag" .root) -}}
{{- end -}}

{{/*
What the mesh consists of, made from libs/meshkit/components.py by `make k8s`: who calls whom,
who signs, who uses the database and who calls providers.
*/}}
{{- define "citemesh.components" -}}
{{- .Files.Get "files/components.yaml" -}}
{{- end -}}

{{/* Values of one component: what it says itself over what `defaults` say. */}}
{{- define "citemesh.own" -}}
{{- $own := get .root.Values.services .component.name | required (printf "services.%s is missing in the values" .component.name) -}}
{{- mergeOverwrite (deepCopy .root.Values.defaults) (deepCopy $own) | toYaml -}}
{{- end -}}

{{- define "citemesh.hasDirectoryBlobs" -}}
{{- if hasPrefix "file:" .Values.stores.blobs.url }}yes{{ end -}}
{{- end -}}

{{- define "citemesh.opensearchUrl" -}}
{{- if .Values.stores.opensearch.bundled.enabled -}}
http://{{ include "citemesh.fullname" . }}-opensearch:9200
{{- else -}}
{{ .Values.stores.opensearch.url }}
{{- end -}}
{{- end -}}

{{/* The one replica of a component that keeps files in a volume; anything else when it does not. */}}
{{- define "citemesh.volume" -}}
{{- if and (eq .component.name "retrieval") (not (include "citemesh.opensearchUrl" .root)) -}}
lexical
{{- else if and (eq .component.name "ingestion") (include "citemesh.hasDirectoryBlobs" .root) -}}
blobs
{{- end -}}
{{- end -}}

{{/* Most replicas that may run at once. */}}
{{- define "citemesh.mostReplicas" -}}
{{- if include "citemesh.scales" . -}}{{ max .own.replicas .own.autoscaling.maxReplicas }}{{- else -}}{{ .own.replicas }}{{- end -}}
{{- end -}}

{{/* Whether an autoscaler sets the replicas. */}}
{{- define "citemesh.scales" -}}
{{- with .own.autoscaling -}}
{{- if and .enabled (or .cpu $.root.Values.autoscaling.externalMetrics) -}}yes{{- end -}}
{{- end -}}
{{- end -}}

{{/* Whether migrations run as a hook: not where the database comes up with the release. */}}
{{- define "citemesh.migratesInHook" -}}
{{- $asked := toString .Values.migrations.hook -}}
{{- if or (eq $asked "true") (and (eq $asked "auto") (not .Values.stores.postgres.bundled.enabled)) -}}yes{{- end -}}
{{- end -}}
