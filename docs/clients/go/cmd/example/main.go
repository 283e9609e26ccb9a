// Captures one payment: example TRANSACTION AMOUNT
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"strconv"
	"time"

	"github.com/google/uuid"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/sdk/trace"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"payops-example/boundary"
	pb "payops-example/gen/payops/v1"
)

func main() {
	log.SetFlags(0)
	if len(os.Args) != 3 {
		log.Fatal("example TRANSACTION AMOUNT")
	}
	amount, err := strconv.ParseInt(os.Args[2], 10, 64)
	if err != nil {
		log.Fatal(err)
	}
	if err := ship(os.Args[1], amount); err != nil {
		log.Fatal(err)
	}
}

// ship is what the shop does, in a span of its own.
func ship(transaction string, amount int64) error {
	// Yours exports its spans; this one only makes them.
	otel.SetTracerProvider(trace.NewTracerProvider())
	ctx, span := otel.Tracer("shop").Start(context.Background(), "ship an order")
	defer span.End()
	fmt.Println("trace", span.SpanContext().TraceID())

	channel, err := boundary.Connect()
	if err != nil {
		return err
	}
	defer channel.Close()
	operation, err := capture(ctx, pb.NewPaymentOperationsServiceClient(channel), transaction, amount)
	if err != nil {
		return err
	}
	fmt.Printf("capture of %d: %s\n", operation.GetAmount(), boundary.State(operation))
	if operation.GetState() != pb.OperationState_OPERATION_STATE_SUCCEEDED {
		return fmt.Errorf("nothing was captured")
	}
	return nil
}

func capture(
	ctx context.Context, payops pb.PaymentOperationsServiceClient, transaction string, amount int64,
) (*pb.Operation, error) {
	// Made once for this intention, and kept with it (in your database, before the call): every retry repeats it.
	key := uuid.Must(uuid.NewV7()).String()
	token := boundary.Token("TOKEN")
	request := &pb.CaptureRequest{TransactionId: transaction, Amount: amount}

	// How long we wait. Whether it happens does not depend on it.
	call, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	call = metadata.AppendToOutgoingContext(call, "idempotency-key", key)
	answer, err := payops.Capture(call, request, token)
	if err != nil {
		return nil, failure(err, key)
	}
	operation := answer.GetOperation()
	if operation.GetState() == pb.OperationState_OPERATION_STATE_PENDING {
		// Accepted, and done later: follow it to its end.
		operation, err = boundary.Watch(ctx, payops, key, token)
		if err != nil {
			return nil, failure(err, key)
		}
	}
	return operation, nil
}

// failure tells whether the money may have moved.
func failure(err error, key string) error {
	info := boundary.Reason(err)
	if info.GetMetadata()["safe_to_use_new_key"] == "true" {
		message := status.Convert(err).Message()
		return fmt.Errorf("not captured: %s %s: %s", boundary.Code(err), info.GetReason(), message)
	}
	// The money may have moved. Never a new key: ask again under this one, now or tomorrow.
	return fmt.Errorf("not known yet, repeat with key %s: %s %s", key, boundary.Code(err), info.GetReason())
}
