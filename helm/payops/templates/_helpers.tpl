{{- define "payops.name" -}}
{{- contains .Chart.Name .Release.Name | ternary .Release.Name (printf "%s-%s" .Release.Name .Chart.Name) | trunc 42 | trimSuffix "-" }}
{{- end }}

{{- define "payops.selector" -}}
app.kubernetes.io/name: payops
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: boundary
{{- end }}

{{- define "payops.common" -}}
app.kubernetes.io/name: payops
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "payops.image" -}}
{{- with .Values.image }}{{ .repository }}{{ if .digest }}@{{ .digest }}{{ else }}:{{ .tag | default $.Chart.AppVersion }}{{ end }}{{ end }}
{{- end }}

{{- /* Each waits longer than the one inside it. */}}
{{- define "payops.seconds" -}}
{{- $psp := int .Values.timeouts.psp -}}
{{- dict "psp" $psp "rpc" (add $psp 10) "mesh" (add $psp 20) "drain" (add $psp 25) "grace" (add $psp 40 (int .Values.timeouts.preStop)) | toJson -}}
{{- end }}

{{- define "payops.tlsSecret" -}}
{{- if .Values.tls.certManager.enabled }}{{ include "payops.name" . }}-tls{{ else }}{{ .Values.tls.existingSecret }}{{ end }}
{{- end }}

{{- define "payops.accounts" -}}
{{- if .Values.sandbox.enabled }}
{{- list (dict "id" "T12345678" "existingSecret" (printf "%s-sandbox" (include "payops.name" .))) | toJson }}
{{- else }}{{ .Values.accounts | toJson }}{{ end }}
{{- end }}

{{- /* What would be unsafe or cannot work is refused here, with its remedy. */}}
{{- define "payops.check" -}}
{{- $v := .Values }}
{{- if and (not $v.sandbox.enabled) (not $v.accounts) }}{{ fail "accounts: is empty; name the Dintero accounts and their secrets, or set sandbox.enabled" }}{{ end }}
{{- if and $v.sandbox.enabled $v.accounts }}{{ fail "accounts: a simulated Dintero knows none of them; leave them out, or sandbox.enabled" }}{{ end }}
{{- if and (not $v.callers.toml) (not $v.callers.existingConfigMap) }}{{ fail "callers: is missing; give callers.toml (docs/callers.example.toml) or callers.existingConfigMap" }}{{ end }}
{{- if eq $v.shape "postgres" }}
{{- if not $v.postgres.url }}{{ fail "postgres.url: is missing; where is the database?" }}{{ end }}
{{- if lt (int $v.replicas) 2 }}{{ fail "replicas: one replica is down whenever its node drains; write 2 or more, or shape embedded" }}{{ end }}
{{- if and $v.autoscaling.enabled (lt (int $v.autoscaling.max) (int $v.replicas)) }}{{ fail "autoscaling.max: is less than replicas" }}{{ end }}
{{- else }}
{{- if $v.postgres.url }}{{ fail "postgres.url: shape is embedded; set shape to postgres, or take the url away" }}{{ end }}
{{- if $v.autoscaling.enabled }}{{ fail "autoscaling.enabled: an embedded journal has one owner; set shape to postgres" }}{{ end }}
{{- end }}
{{- if and $v.tls.certManager.enabled $v.tls.existingSecret }}{{ fail "tls: give existingSecret or certManager, not both" }}{{ end }}
{{- if and $v.tls.certManager.enabled (not $v.tls.certManager.issuerRef.name) }}{{ fail "tls.certManager.issuerRef.name: is missing; who issues the certificate?" }}{{ end }}
{{- if and $v.tls.clientCertificateRequired (not $v.tls.clientCaSecret) }}{{ fail "tls.clientCaSecret: is missing, and every client has to present a certificate" }}{{ end }}
{{- if and $v.webhook.enabled (not $v.webhook.existingSecret) }}{{ fail "webhook.existingSecret: is missing; what does Dintero sign with?" }}{{ end }}
{{- if and $v.externalSecrets.secrets (not $v.externalSecrets.storeRef.name) }}{{ fail "externalSecrets.storeRef.name: is missing" }}{{ end }}
{{- end }}
