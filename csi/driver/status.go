package driver

import (
	"context"
	"errors"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/orlop-io/orlop/csi/volume"
)

// table says which code an error becomes; the first that matches counts. A context that ended comes first: whatever else
// an error wraps, the operation may have to be taken up again.
var table = []struct {
	err  error
	code codes.Code
}{
	{context.Canceled, codes.Canceled},
	{context.DeadlineExceeded, codes.DeadlineExceeded},
	{volume.ErrBusy, codes.Aborted},
	{volume.ErrInvalid, codes.InvalidArgument},
	{volume.ErrNotFound, codes.NotFound},
	{volume.ErrIncompatible, codes.AlreadyExists},
	{volume.ErrInUse, codes.FailedPrecondition},
	{volume.ErrNotStaged, codes.FailedPrecondition},
	{volume.ErrOutOfRange, codes.OutOfRange},
	{volume.ErrExhausted, codes.ResourceExhausted},
	{volume.ErrForbidden, codes.PermissionDenied},
	{volume.ErrNotReady, codes.FailedPrecondition},
	{volume.ErrUnavailable, codes.Unavailable},
}

// toStatus translates an error into the status that the caller sees. It is the only place that does. An error that has a
// status already keeps it; one that nobody foresaw is Internal, never Unknown, which callers may take for a final
// failure of a volume that was made.
func toStatus(err error) error {
	if err == nil {
		return nil
	}
	if s, ok := err.(interface{ GRPCStatus() *status.Status }); ok {
		return s.GRPCStatus().Err()
	}
	for _, row := range table {
		if errors.Is(err, row.err) {
			return status.Error(row.code, err.Error())
		}
	}
	return status.Error(codes.Internal, err.Error())
}
