package provisioner

import "fmt"

// Refusal says why a claim can not be provisioned as it and its class stand. It is final until one of them changes;
// no driver has been asked. Its message is written for the author of the claim.
type Refusal struct {
	// Field names what is wrong, as a path in the claim ("spec.selector") or in the class ("parameters[x]").
	Field string
	// Message says what is wrong and what to do about it.
	Message string
}

// Error implements error.
func (r *Refusal) Error() string { return r.Field + ": " + r.Message }

func refuse(field, format string, args ...any) *Refusal {
	return &Refusal{Field: field, Message: fmt.Sprintf(format, args...)}
}
