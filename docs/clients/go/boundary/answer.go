package boundary

import (
	"context"
	"errors"
	"io"
	"strings"

	"google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"

	pb "payops-example/gen/payops/v1"
)

// Code is the name of an error's status code, as the contract writes it.
func Code(err error) string {
	return code.Code(status.Code(err)).String()
}

// Reason is what payops says beside the code: its reason, and whether another key is safe. Where it said nothing the
// answer is nil, and its getters return what is empty.
func Reason(err error) *errdetails.ErrorInfo {
	for _, detail := range status.Convert(err).Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok {
			return info
		}
	}
	return nil
}

// State is the short name of an operation's state, such as SUCCEEDED.
func State(operation *pb.Operation) string {
	return strings.TrimPrefix(operation.GetState().String(), "OPERATION_STATE_")
}

// Watch follows an operation to its end.
func Watch(
	ctx context.Context, payops pb.PaymentOperationsServiceClient, key string, options ...grpc.CallOption,
) (*pb.Operation, error) {
	name := &pb.WatchOperationRequest_IdempotencyKey{IdempotencyKey: key}
	changes, err := payops.WatchOperation(ctx, &pb.WatchOperationRequest{Name: name}, options...)
	if err != nil {
		return nil, err
	}
	var operation *pb.Operation
	for {
		change, err := changes.Recv()
		if errors.Is(err, io.EOF) {
			return operation, nil
		}
		if err != nil {
			return nil, err
		}
		operation = change.GetOperation()
	}
}
