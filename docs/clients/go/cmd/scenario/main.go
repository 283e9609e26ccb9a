// Takes the steps of docs/clients/scenario.txt: scenario SCENARIO PREFIX
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"strings"

	"google.golang.org/grpc"

	"payops-example/boundary"
	pb "payops-example/gen/payops/v1"
)

func main() {
	log.SetFlags(0)
	if len(os.Args) != 3 {
		log.Fatal("scenario SCENARIO PREFIX")
	}
	wrong, err := play(context.Background(), os.Args[1], os.Args[2])
	if err != nil {
		log.Fatal(err)
	}
	if wrong > 0 {
		log.Fatalf("%d steps differ", wrong)
	}
}

// play takes each step and prints what came of it; it counts those that differ.
func play(ctx context.Context, scenario, prefix string) (wrong int, err error) {
	text, err := os.ReadFile(scenario)
	if err != nil {
		return 0, err
	}
	retrying, err := boundary.Connect()
	if err != nil {
		return 0, err
	}
	defer retrying.Close()
	askingOnce, err := boundary.Connect(grpc.WithDisableRetry())
	if err != nil {
		return 0, err
	}
	defer askingOnce.Close()
	runner := &runner{
		prefix:       prefix,
		transactions: map[string]string{},
		retrying:     pb.NewPaymentOperationsServiceClient(retrying),
		askingOnce:   pb.NewPaymentOperationsServiceClient(askingOnce),
	}
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSuffix(line, "\n")
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		step, expected, _ := strings.Cut(line, " -> ")
		result, err := runner.take(ctx, step)
		if err != nil {
			return wrong, fmt.Errorf("%s: %w", step, err)
		}
		if result == "" {
			fmt.Println(step)
		} else {
			fmt.Println(step, "->", result)
		}
		if result != expected {
			wrong++
		}
	}
	return wrong, nil
}
