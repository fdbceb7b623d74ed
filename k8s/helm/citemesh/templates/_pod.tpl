{{/* The pod of a component. */}}
{{- define "citemesh.pod" -}}
{{- $root := .root -}}
{{- $values := $root.Values -}}
{{- $component := .component -}}
{{- $own := .own -}}
{{- $fullname := include "citemesh.fullname" $root -}}
{{- $name := include "citemesh.kebab" $component.name -}}
{{- $isGateway := eq $component.name "gateway" -}}
{{- $notice := ternary $values.gateway.noticeSeconds 0 $isGateway -}}
{{- $volume := include "citemesh.volume" . -}}
serviceAccountName: {{ $fullname }}-{{ $name }}
automountServiceAccountToken: false
# Kubernetes would set CITEMESH_..._PORT for each Service, which no setting is named after.
enableServiceLinks: false
# Calls in flight have drainSeconds to end{{ if $notice }}, after noticeSeconds in which proxies choose another pod{{ end }}.
terminationGracePeriodSeconds: {{ add $notice $own.drainSeconds 10 }}
{{ include "citemesh.placement" (dict "root" $root "own" $own) }}
topologySpreadConstraints:
{{- range list "kubernetes.io/hostname" "topology.kubernetes.io/zone" }}
  - maxSkew: 1
    topologyKey: {{ . }}
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "citemesh.selector" $root | nindent 8 }}
        app.kubernetes.io/component: {{ $name }}
    matchLabelKeys: [pod-template-hash]
{{- end }}
containers:
  - name: {{ $name }}
    image: {{ $own.image | default (include "citemesh.image" (dict "root" $root "service" $component.service)) }}
    imagePullPolicy: {{ $values.image.pullPolicy }}
    securityContext:
      {{- toYaml $values.securityContext | nindent 6 }}
    envFrom:
      - configMapRef: {name: {{ $fullname }}-{{ $name }}}
    env:
      {{- include "citemesh.environment" . | nindent 6 }}
    ports:
      {{- if $isGateway }}
      - {name: http, containerPort: {{ $values.ports.http }}}
      {{- else }}
      - {name: grpc, containerPort: {{ $values.ports.grpc }}}
      {{- if $values.tls.enabled }}
      - {name: health, containerPort: {{ $values.ports.health }}}
      {{- end }}
      {{- end }}
      {{- if $values.telemetry.metrics.enabled }}
      - {name: metrics, containerPort: {{ $values.ports.metrics }}}
      {{- end }}
    # Waits for its schema NOT_SERVING: ten minutes for migrations and models to be there.
    startupProbe:
      {{- include "citemesh.alive" . | nindent 6 }}
      periodSeconds: 3
      timeoutSeconds: 3
      failureThreshold: 200
    readinessProbe:
      {{- include "citemesh.ready" . | nindent 6 }}
      periodSeconds: 5
      timeoutSeconds: 3
      failureThreshold: 2
    livenessProbe:
      {{- include "citemesh.alive" . | nindent 6 }}
      periodSeconds: 10
      timeoutSeconds: 5
      failureThreshold: 6
    resources:
      {{- toYaml $own.resources | nindent 6 }}
    volumeMounts:
      - {name: tmp, mountPath: /tmp}
      - {name: keyring, mountPath: /etc/citemesh/keyring, readOnly: true}
      {{- if $component.signs }}
      - {name: signing, mountPath: /etc/citemesh/signing, readOnly: true}
      {{- end }}
      {{- if $values.tls.enabled }}
      - {name: tls, mountPath: /etc/citemesh/tls, readOnly: true}
      {{- end }}
      {{- include "citemesh.ca.mount" $root | nindent 6 }}
      {{- if $volume }}
      - {name: data, mountPath: /var/lib/citemesh}
      {{- end }}
volumes:
  # The home folder of the image, too: caches and temporary copies of files.
  - name: tmp
    emptyDir: {sizeLimit: {{ $own.temporaryStorage }}}
  - name: keyring
    secret: {secretName: {{ $values.identity.keyringSecret }}}
  {{- if $component.signs }}
  - name: signing
    secret:
      secretName: {{ get $values.identity.signingSecrets $component.service }}
      defaultMode: 0440
  {{- end }}
  {{- if $values.tls.enabled }}
  - name: tls
    secret:
      secretName: {{ $values.tls.secretPrefix }}-{{ $name }}
      defaultMode: 0440
  {{- end }}
  {{- include "citemesh.ca.volume" $root | nindent 2 }}
  {{- if $volume }}
  - name: data
    persistentVolumeClaim: {claimName: {{ $fullname }}-{{ $volume }}}
  {{- end }}
{{- end -}}

{{/*
The variables of a container that are no plain configuration, each once: what a service says for
itself replaces what is said for all, and nobody replaces what the chart sets.
*/}}
{{- define "citemesh.environment" -}}
{{- $ours := include "citemesh.environment.ours" . -}}
{{- $taken := list -}}
{{- range fromYamlArray $ours }}{{ $taken = append $taken .name }}{{ end -}}
{{- $own := list -}}
{{- range default list .own.extraEnv }}{{ $own = append $own .name }}{{ end -}}
{{- $extra := default list .own.extraEnv -}}
{{- range reverse .root.Values.extraEnv }}
{{- if not (has .name $own) }}{{ $extra = prepend $extra . }}{{ end }}
{{- end -}}
{{- $seen := list -}}
{{- range $extra }}
{{- if has .name $taken -}}
{{- fail (printf "extraEnv of %s: %s is set by the chart." $.component.name .name) -}}
{{- end -}}
{{- if has .name $seen -}}
{{- fail (printf "extraEnv of %s has %s twice." $.component.name .name) -}}
{{- end -}}
{{- $seen = append $seen .name -}}
{{- end -}}
{{- $ours -}}
{{- with $extra }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "citemesh.environment.ours" -}}
- name: POD_NAME
  valueFrom: {fieldRef: {fieldPath: metadata.name}}
- name: POD_NAMESPACE
  valueFrom: {fieldRef: {fieldPath: metadata.namespace}}
- name: OTEL_RESOURCE_ATTRIBUTES
  value: k8s.pod.name=$(POD_NAME),k8s.namespace.name=$(POD_NAMESPACE)
{{- include "citemesh.secrets" . }}
{{- end -}}

{{/* Whether the process answers. */}}
{{- define "citemesh.alive" -}}
{{- if eq .component.name "gateway" -}}
httpGet: {path: /healthz, port: http}
{{- else -}}
grpc: {port: {{ include "citemesh.probed" .root }}}
{{- end -}}
{{- end -}}

{{/* Whether it takes calls. */}}
{{- define "citemesh.ready" -}}
{{- if eq .component.name "gateway" -}}
httpGet: {path: /readyz/gateway, port: http}
{{- else -}}
grpc: {port: {{ include "citemesh.probed" .root }}, service: {{ .component.grpcService }}}
{{- end -}}
{{- end -}}

{{/* Kubelets speak no TLS to a gRPC probe, so health has a port without it then. */}}
{{- define "citemesh.probed" -}}
{{- ternary .Values.ports.health .Values.ports.grpc .Values.tls.enabled -}}
{{- end -}}

{{/* Where a pod runs, as whom, and who pulls its image. */}}
{{- define "citemesh.placement" -}}
{{- $values := .root.Values -}}
securityContext:
  {{- toYaml $values.podSecurityContext | nindent 2 }}
{{- with $values.image.pullSecrets }}
imagePullSecrets:
{{- range . }}
  - name: {{ . }}
{{- end }}
{{- end }}
{{- with .own.priorityClassName | default $values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- range $field := list "nodeSelector" "tolerations" "affinity" }}
{{- with get $.own $field }}
{{ $field }}:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
{{- end -}}

{{/* Certificates of authorities of the site. */}}
{{- define "citemesh.ca.mount" -}}
{{- if .Values.caBundle.configMap -}}
- {name: ca, mountPath: /etc/citemesh/ca, readOnly: true}
{{- end -}}
{{- end -}}

{{- define "citemesh.ca.volume" -}}
{{- with .Values.caBundle -}}
{{- if .configMap -}}
- name: ca
  configMap:
    name: {{ .configMap }}
    items: [{key: {{ .key }}, path: ca.crt}]
{{- end -}}
{{- end -}}
{{- end -}}
