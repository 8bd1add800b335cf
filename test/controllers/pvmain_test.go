// Package controllers holds tests of the controllers against a real API server.
package controllers

import (
	"os"
	"testing"

	"github.com/orlop-io/orlop/test/apienv"
)

// env is the API server that all tests of this package share. Each test has a namespace, and names for its classes
// and volumes, of its own.
var env *apienv.Env

func TestMain(m *testing.M) {
	os.Exit(apienv.Run(m, &env, apienv.WithProtectionControllers(), apienv.WithScheduler(), apienv.WithControllers(
		"deployment-controller", "replicaset-controller", "statefulset-controller", "daemonset-controller")))
}
