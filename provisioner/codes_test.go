package provisioner

import (
	"errors"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func TestClassify(t *testing.T) {
	want := map[codes.Code]outcome{
		codes.OK:                 created,
		codes.Canceled:           unfinished,
		codes.Unknown:            unfinished,
		codes.InvalidArgument:    failed,
		codes.DeadlineExceeded:   unfinished,
		codes.NotFound:           failed,
		codes.AlreadyExists:      failed,
		codes.PermissionDenied:   failed,
		codes.ResourceExhausted:  exhausted,
		codes.FailedPrecondition: failed,
		codes.Aborted:            unfinished,
		codes.OutOfRange:         failed,
		codes.Unimplemented:      failed,
		codes.Internal:           failed,
		codes.Unavailable:        unfinished,
		codes.DataLoss:           failed,
		codes.Unauthenticated:    failed,
	}
	for code := codes.OK; code <= codes.Unauthenticated; code++ {
		expected, found := want[code]
		if !found {
			t.Errorf("no expectation for %v", code)
		}
		if got := classify(status.Error(code, "x")); got != expected {
			t.Errorf("%v is %v, want %v", code, got, expected)
		}
	}
	if got := classify(errors.New("not from gRPC")); got != unfinished {
		t.Errorf("a bare error is %v, want unfinished", got)
	}
}
