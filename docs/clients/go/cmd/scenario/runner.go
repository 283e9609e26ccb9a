package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"payops-example/boundary"
	pb "payops-example/gen/payops/v1"
)

type runner struct {
	prefix               string
	transactions         map[string]string // ids by name
	retrying, askingOnce pb.PaymentOperationsServiceClient
}

// command is a call, as a step words it.
type command struct {
	verb, key, transaction string
	amount                 int64
	payops                 pb.PaymentOperationsServiceClient
	within                 time.Duration
	token                  grpc.CallOption
	async                  bool
}

// take takes a step; what came of it, where there is something to tell.
func (r *runner) take(ctx context.Context, step string) (string, error) {
	verb, rest, _ := strings.Cut(step, " ")
	switch verb {
	case "transaction":
		name, body, _ := strings.Cut(rest, " ")
		var made struct{ ID string }
		err := r.sandbox("transactions", body, &made)
		r.transactions[name] = made.ID
		return "", err
	case "fault":
		for name, transaction := range r.transactions {
			rest = strings.ReplaceAll(rest, `"@`+name+`"`, `"`+transaction+`"`)
		}
		return "", r.sandbox("faults", rest, &struct{}{})
	case "drain":
		drain := exec.CommandContext(ctx, "sh", "-c", os.Getenv("DRAIN"))
		drain.Stdout, drain.Stderr = os.Stderr, os.Stderr
		return "", drain.Run()
	}
	command, err := r.parse(verb, strings.Fields(rest))
	if err != nil {
		return "", err
	}
	return command.call(ctx)
}

func (r *runner) parse(verb string, words []string) (command, error) {
	c := command{verb: verb, payops: r.retrying, within: 30 * time.Second, token: boundary.Token("TOKEN")}
	var arguments []string
	for _, word := range words {
		option, value, _ := strings.Cut(word, "=")
		switch option {
		case "once":
			c.payops = r.askingOnce
		case "async":
			c.async = true
		case "by":
			c.token = boundary.Token(strings.ToUpper(value) + "_TOKEN")
		case "within":
			within, err := time.ParseDuration(value + "ms")
			if err != nil {
				return c, err
			}
			c.within = within
		default:
			arguments = append(arguments, word)
		}
	}
	if len(arguments) == 0 {
		return c, fmt.Errorf("no key")
	}
	c.key = r.prefix + "-" + arguments[0]
	if len(arguments) > 1 {
		c.transaction = r.transactions[arguments[1]]
	}
	if len(arguments) > 2 {
		amount, err := strconv.ParseInt(arguments[2], 10, 64)
		if err != nil {
			return c, err
		}
		c.amount = amount
	}
	return c, nil
}

func (c command) call(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, c.within)
	defer cancel()
	money := metadata.AppendToOutgoingContext(ctx, "idempotency-key", c.key)
	var header metadata.MD
	options := []grpc.CallOption{c.token, grpc.Header(&header)}

	var answer interface{ GetOperation() *pb.Operation }
	var err error
	switch c.verb {
	case "capture":
		request := &pb.CaptureRequest{TransactionId: c.transaction, Amount: c.amount, Async: c.async}
		answer, err = c.payops.Capture(money, request, options...)
	case "void":
		request := &pb.VoidRequest{TransactionId: c.transaction, Async: c.async}
		answer, err = c.payops.Void(money, request, options...)
	case "refund":
		request := &pb.RefundRequest{TransactionId: c.transaction, Amount: c.amount, Async: c.async}
		answer, err = c.payops.Refund(money, request, options...)
	case "get":
		name := &pb.GetOperationRequest_IdempotencyKey{IdempotencyKey: c.key}
		answer, err = c.payops.GetOperation(ctx, &pb.GetOperationRequest{Name: name}, options...)
	case "watch":
		var operation *pb.Operation
		operation, err = boundary.Watch(ctx, c.payops, c.key, options...)
		answer = &pb.WatchOperationResponse{Operation: operation}
	default:
		return "", fmt.Errorf("no such step")
	}
	if err != nil {
		return told(err), nil
	}
	state := boundary.State(answer.GetOperation())
	if slices.Contains(header.Get("idempotency-replayed"), "true") {
		state += " replayed"
	}
	return state, nil
}

func told(err error) string {
	info := boundary.Reason(err)
	if status.Code(err) == codes.DeadlineExceeded || info.GetReason() == "OPERATION_IN_PROGRESS" {
		return "TOO_LATE"
	}
	text := boundary.Code(err) + " " + info.GetReason()
	if newKey, ok := info.GetMetadata()["safe_to_use_new_key"]; ok {
		text += " new_key=" + newKey
	}
	return text
}

func (r *runner) sandbox(what, body string, answer any) error {
	url := os.Getenv("SANDBOX") + "/sandbox/v1/" + what
	response, err := http.Post(url, "application/json", strings.NewReader(body))
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode >= http.StatusBadRequest {
		return fmt.Errorf("sandbox: %s", response.Status)
	}
	return json.NewDecoder(response.Body).Decode(answer)
}
