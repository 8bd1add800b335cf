package nodenet

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"testing"
	"time"
)

// victimEnv names the network that the test binary, run as a child, makes and removes until it is killed.
const victimEnv = "ORLOP_NODENET_VICTIM"

func TestMain(m *testing.M) {
	if name := os.Getenv(victimEnv); name != "" {
		fmt.Fprintln(os.Stderr, beVictim(name, os.Getenv(victimEnv+"_STATE")))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func beVictim(name, stateFile string) error {
	ctx := context.Background()
	for {
		n, err := Ensure(ctx, Options{Name: name, StateFile: stateFile})
		if err != nil {
			return err
		}
		if _, err := os.Stdout.Write([]byte{'.'}); err != nil {
			return err
		}
		if err := n.Delete(ctx); err != nil {
			return err
		}
	}
}

// TestKilled kills a process somewhere between making a network and removing it, and then makes the network.
func TestKilled(t *testing.T) {
	opts := newTestNet(t)
	for range 12 {
		child := exec.Command(os.Args[0])
		child.Env = append(os.Environ(), victimEnv+"="+opts.Name, victimEnv+"_STATE="+opts.StateFile)
		child.Stderr = os.Stderr
		out, err := child.StdoutPipe()
		must(t, err)
		must(t, child.Start())
		_, err = out.Read(make([]byte, 1)) // once round at least
		must(t, err)
		<-time.After(time.Duration(rand.IntN(20_000)) * time.Microsecond)
		must(t, child.Process.Kill())
		if err := child.Wait(); err == nil || err.Error() != "signal: killed" {
			t.Fatalf("the victim ended by itself: %v", err)
		}

		n := ensure(t, opts)
		exchange(t, n)
		remove(t, n)
		checkNothingLeft(t, opts.Name)
	}
}
