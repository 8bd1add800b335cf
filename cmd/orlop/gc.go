package main

import (
	"os"
	"runtime/debug"
	"time"
)

// A component fills its heap once, in its first seconds. Collecting garbage all along that way took a sixth of the time
// that a cluster needs to be ready; later on the usual pace keeps the memory of an idle cluster small.
const (
	startGCPercent = 400
	startPeriod    = 10 * time.Second
	gcPercent      = 80
)

// relaxGC collects little garbage at first. A GOGC in the environment is left in charge.
func relaxGC() {
	if os.Getenv("GOGC") != "" {
		return
	}
	debug.SetGCPercent(startGCPercent)
	time.AfterFunc(startPeriod, func() {
		debug.SetGCPercent(gcPercent)
		debug.FreeOSMemory()
	})
}
