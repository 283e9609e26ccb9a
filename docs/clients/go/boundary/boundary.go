// Package boundary connects to payops, and does all that is due: TLS, keepalive, retries, the caller's token, the trace.
package boundary

import (
	_ "embed"
	"encoding/json"
	"os"
	"time"

	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc"
	"go.opentelemetry.io/otel/propagation"
	"golang.org/x/oauth2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/oauth"
	"google.golang.org/grpc/keepalive"
)

// What a call may and may not repeat, as payops publishes it; `run setup` puts it here, so that the binary carries it.
//
//go:embed service_config.json
var published []byte

// Connect makes a channel. Retries are on; grpc.WithDisableRetry() asks once.
func Connect(more ...grpc.DialOption) (*grpc.ClientConn, error) {
	authority, err := credentials.NewClientTLSFromFile(os.Getenv("CA"), "")
	if err != nil {
		return nil, err
	}
	config, err := serviceConfig()
	if err != nil {
		return nil, err
	}
	options := []grpc.DialOption{
		grpc.WithTransportCredentials(authority),
		grpc.WithDefaultServiceConfig(config),
		// The published config is the one that counts, not one from a TXT record in DNS.
		grpc.WithDisableServiceConfig(),
		// While a boundary is replaced, calls wait instead of failing.
		grpc.WithDefaultCallOptions(grpc.WaitForReady(true)),
		// Notices within a minute and a half that a connection is dead, also where nothing is called.
		grpc.WithKeepaliveParams(keepalive.ClientParameters{
			Time:                60 * time.Second,
			Timeout:             20 * time.Second,
			PermitWithoutStream: true,
		}),
		// Each call has a span, and hands its place in the trace on to payops and the PSP.
		grpc.WithStatsHandler(otelgrpc.NewClientHandler(otelgrpc.WithPropagators(propagation.TraceContext{}))),
	}
	return grpc.NewClient(os.Getenv("BOUNDARY"), append(options, more...)...)
}

// Token is the caller's token from an environment variable; as call credentials it never leaves without TLS.
func Token(name string) grpc.CallOption {
	source := oauth2.StaticTokenSource(&oauth2.Token{AccessToken: os.Getenv(name)})
	return grpc.PerRPCCredentials(oauth.TokenSource{TokenSource: source})
}

// The published retries, and calls spread over all replicas.
func serviceConfig() (string, error) {
	var config map[string]any
	if err := json.Unmarshal(published, &config); err != nil {
		return "", err
	}
	config["loadBalancingConfig"] = []any{map[string]any{"round_robin": struct{}{}}}
	text, err := json.Marshal(config)
	return string(text), err
}
