{{- /* The pod, which both shapes share. */}}
{{- define "payops.pod" -}}
{{- $name := include "payops.name" . }}
{{- $s := include "payops.seconds" . | fromJson }}
{{- $tls := include "payops.tlsSecret" . }}
metadata:
  labels:
    {{- include "payops.selector" . | nindent 4 }}
    {{- with .Values.podLabels }}{{ toYaml . | nindent 4 }}{{ end }}
  annotations:
    # Callers, certificates, credentials and the log level are followed; whatever else changes needs new pods.
    checksum/config: {{ (include (print $.Template.BasePath "/config.yaml") . | splitList "\n---\n" | first) | sha256sum }}
    {{- if eq .Values.mesh "linkerd" }}
    linkerd.io/inject: enabled
    {{- end }}
    {{- if eq .Values.mesh "istio" }}
    proxy.istio.io/config: '{"holdApplicationUntilProxyStarts": true, "terminationDrainDuration": "{{ $s.drain }}s"}'
    {{- end }}
    {{- with .Values.podAnnotations }}{{ toYaml . | nindent 4 }}{{ end }}
spec:
  serviceAccountName: {{ $name }}
  automountServiceAccountToken: false
  enableServiceLinks: false
  # More than payops needs to drain, so that it is never cut off.
  terminationGracePeriodSeconds: {{ $s.grace }}
  {{- with .Values.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  {{- with .Values.imagePullSecrets }}
  imagePullSecrets: {{- toYaml . | nindent 4 }}
  {{- end }}
  securityContext: {{- include "payops.podSecurity" . | nindent 4 }}
  containers:
    - name: payops
      image: {{ include "payops.image" . }}
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      args: [serve, --config, /etc/payops/config/payops.toml]
      {{- if or .Values.telemetry.endpoint .Values.telemetry.env }}
      env:
        {{- with .Values.telemetry.endpoint }}
        - { name: OTEL_EXPORTER_OTLP_ENDPOINT, value: {{ . | quote }} }
        - { name: OTEL_EXPORTER_OTLP_PROTOCOL, value: {{ $.Values.telemetry.protocol | quote }} }
        - { name: OTEL_RESOURCE_ATTRIBUTES, value: "k8s.namespace.name={{ $.Release.Namespace }}" }
        {{- end }}
        {{- with .Values.telemetry.env }}{{ toYaml . | nindent 8 }}{{ end }}
      {{- end }}
      ports:
        - { name: grpc, containerPort: 50051 }
        - { name: health, containerPort: 50054 }
        - { name: metrics, containerPort: 9464 }
        {{- if .Values.webhook.enabled }}
        - { name: webhook, containerPort: 50053 }
        {{- end }}
      # A journal of years takes a while to open.
      startupProbe: { grpc: { port: 50054, service: startup }, periodSeconds: 2, failureThreshold: 150 }
      readinessProbe:
        grpc: { port: 50054, service: payops.v1.PaymentOperationsService }
        periodSeconds: 2
        failureThreshold: 2
      # Alive while it answers at all: a PSP or a database that is gone is no reason to be killed.
      livenessProbe: { grpc: { port: 50054, service: liveness }, periodSeconds: 10, timeoutSeconds: 5, failureThreshold: 6 }
      lifecycle:
        # Until every client and every proxy has heard that this pod is going.
        preStop: { sleep: { seconds: {{ .Values.timeouts.preStop }} } }
      securityContext: {{- include "payops.containerSecurity" . | nindent 8 }}
      resources: {{- toYaml .Values.resources | nindent 8 }}
      volumeMounts:
        - { name: config, mountPath: /etc/payops/config, readOnly: true }
        - { name: callers, mountPath: /etc/payops/callers, readOnly: true }
        - { name: log, mountPath: /etc/payops/log, readOnly: true }
        {{- range include "payops.accounts" . | fromJsonArray }}
        - { name: account-{{ .id | lower }}, mountPath: /etc/payops/accounts/{{ .id }}, readOnly: true }
        {{- end }}
        {{- range $volume, $secret := include "payops.secrets" . | fromJson }}
        - { name: {{ $volume }}, mountPath: /etc/payops/{{ $volume }}, readOnly: true }
        {{- end }}
        {{- if eq .Values.shape "embedded" }}
        - { name: journal, mountPath: /var/lib/payops }
        {{- end }}
  volumes:
    - { name: config, configMap: { name: {{ $name }}, items: [{ key: payops.toml, path: payops.toml }] } }
    - name: callers
      configMap:
        name: {{ .Values.callers.existingConfigMap | default (printf "%s-followed" $name) }}
        items: [{ key: callers.toml, path: callers.toml }]
    - { name: log, configMap: { name: {{ $name }}-followed, items: [{ key: level, path: level }] } }
    # Read by the group alone: 288 is 0440.
    {{- range include "payops.accounts" . | fromJsonArray }}
    - { name: account-{{ .id | lower }}, secret: { secretName: {{ .existingSecret }}, defaultMode: 288 } }
    {{- end }}
    {{- range $volume, $secret := include "payops.secrets" . | fromJson }}
    - { name: {{ $volume }}, secret: { secretName: {{ $secret }}, defaultMode: 288 } }
    {{- end }}
  {{- with .Values.nodeSelector }}
  nodeSelector: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.tolerations }}
  tolerations: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.affinity }}
  affinity: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- if eq .Values.shape "postgres" }}
  topologySpreadConstraints:
    {{- range list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
    - maxSkew: 1
      topologyKey: {{ . }}
      whenUnsatisfiable: ScheduleAnyway
      labelSelector:
        matchLabels: {{- include "payops.selector" $ | nindent 10 }}
    {{- end }}
  {{- end }}
{{- end }}

{{- define "payops.secrets" -}}
{{- $all := dict }}
{{- with include "payops.tlsSecret" . }}{{ $_ := set $all "tls" . }}{{ end }}
{{- with .Values.tls.clientCaSecret }}{{ $_ := set $all "client-ca" . }}{{ end }}
{{- if eq .Values.shape "postgres" }}
{{- with .Values.postgres.existingSecret }}{{ $_ := set $all "postgres" . }}{{ end }}
{{- with .Values.postgres.caSecret }}{{ $_ := set $all "postgres-ca" . }}{{ end }}
{{- end }}
{{- with .Values.audit.existingSecret }}{{ $_ := set $all "audit" . }}{{ end }}
{{- if .Values.webhook.enabled }}{{ $_ := set $all "webhook" .Values.webhook.existingSecret }}{{ end }}
{{- $all | toJson }}
{{- end }}

{{- define "payops.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile: { type: RuntimeDefault }
{{- end }}

{{- define "payops.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: { drop: [ALL] }
{{- end }}
