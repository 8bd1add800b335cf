package writer

// Step is a system call that changes the volume, in the order in which Write makes them. A test fails or ends the
// writer at each of them through Options.Before.
type Step string

// The steps of a Write and of a Prune. Those of files occur in an Overwrite as well.
const (
	StepRoot         Step = "set the volume directory's owner and mode"
	StepMakeGen      Step = "make the generation's directory"
	StepMakeDir      Step = "make a directory"
	StepCreateFile   Step = "create a file"
	StepChownFile    Step = "set a file's owner"
	StepWriteFile    Step = "write a file"
	StepChmodFile    Step = "set a file's mode"
	StepSyncFile     Step = "sync a file"
	StepCloseFile    Step = "close a file"
	StepFinishDir    Step = "set a directory's owner and mode"
	StepSyncDir      Step = "sync a directory"
	StepClearLink    Step = "remove a link that was left over"
	StepMakeLink     Step = "make the link to the new generation"
	StepSwap         Step = "swap the generations"
	StepClearNote    Step = "remove a file that was left over"
	StepNote         Step = "note the versions of what has not changed"
	StepSyncRoot     Step = "sync the volume directory"
	StepShowFile     Step = "make a visible link"
	StepHideFile     Step = "remove a visible link"
	StepRemoveGen    Step = "remove a generation"
	StepRemoveFailed Step = "remove a generation that could not be finished"
)

// The steps of an Overwrite.
const (
	StepDetachFile   Step = "leave a copy of a file to the readers of its generation"
	StepNarrowFile   Step = "narrow a file's mode"
	StepReserveFile  Step = "reserve room for a file"
	StepOverwrite    Step = "overwrite a file in place"
	StepTruncateFile Step = "cut a file to its new length"
)

// do makes one step, unless a test fails it.
func (w *Writer) do(step Step, call func() error) error {
	if w.o.Before != nil {
		if err := w.o.Before(step); err != nil {
			return &StepError{Step: step, Dir: w.dir, Err: err}
		}
	}
	if err := call(); err != nil {
		return &StepError{Step: step, Dir: w.dir, Err: err}
	}
	return nil
}

// StepError says which step failed, in which volume and why. It names paths, never content.
type StepError struct {
	Step Step
	Dir  string
	Err  error
}

var _ error = (*StepError)(nil)

// Error returns the volume, the step and the cause.
func (e *StepError) Error() string { return e.Dir + ": " + string(e.Step) + ": " + e.Err.Error() }

// Unwrap returns the cause.
func (e *StepError) Unwrap() error { return e.Err }
