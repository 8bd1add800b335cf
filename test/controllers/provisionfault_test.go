package controllers

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"

	"github.com/orlop-io/orlop/provisioner"
	"github.com/orlop-io/orlop/provisioner/csifake"
)

// isVolume tells the requests of a method about PersistentVolumes.
func isVolume(r *http.Request, method string) bool {
	return r.Method == method && strings.HasPrefix(r.URL.Path, "/api/v1/persistentvolumes")
}

func TestProvisionFaultsOfTheAPIServer(t *testing.T) {
	t.Run("the answer to the creation of the PersistentVolume is lost", func(t *testing.T) {
		w := newProvisionWorld(t)
		n := w.node("n1")
		var lost atomic.Bool
		n.writes.fault = func(next http.RoundTripper, r *http.Request) (*http.Response, error) {
			resp, err := next.RoundTrip(r)
			if err == nil && isVolume(r, http.MethodPost) && lost.CompareAndSwap(false, true) {
				return nil, errors.Join(errors.New("connection reset"), resp.Body.Close())
			}
			return resp, err
		}
		n.run(provisionFast)
		n.selected("data")
		w.untilClaimPhase("data", corev1.ClaimBound)
		n.journalIsEmpty()
		n.untilVolumes(1)
	})
	t.Run("the PersistentVolume can not be created, and the claim goes", func(t *testing.T) {
		w := newProvisionWorld(t)
		n := w.node("n1")
		n.writes.fault = func(next http.RoundTripper, r *http.Request) (*http.Response, error) {
			if isVolume(r, http.MethodPost) {
				return nil, errors.New("connection refused")
			}
			return next.RoundTrip(r)
		}
		n.run(provisionFast)
		claim := n.selected("data")
		w.untilEvent(claim, provisioner.ReasonProvisioningFailed, "its PersistentVolume can not be created")
		n.untilVolumes(1)
		w.deleteClaim("data")
		n.untilVolumes(0)
		n.journalIsEmpty()
	})
	t.Run("the answers to the deletion of the PersistentVolume are lost", func(t *testing.T) {
		w := newProvisionWorld(t)
		n := w.node("n1")
		var deleted, patched atomic.Bool
		n.writes.fault = func(next http.RoundTripper, r *http.Request) (*http.Response, error) {
			resp, err := next.RoundTrip(r)
			if err == nil && (isVolume(r, http.MethodDelete) && deleted.CompareAndSwap(false, true) ||
				isVolume(r, http.MethodPatch) && patched.CompareAndSwap(false, true)) {
				return nil, errors.Join(errors.New("connection reset"), resp.Body.Close())
			}
			return resp, err
		}
		n.run(provisionFast)
		claim := n.selected("data")
		w.untilClaimPhase("data", corev1.ClaimBound)
		w.deleteClaim("data")
		w.untilNoPV(claim)
		n.untilVolumes(0)
	})
}

// TestProvisionBadAnswers has the driver make volumes that can not be used: they do not stay.
func TestProvisionBadAnswers(t *testing.T) {
	w := newProvisionWorld(t)
	n := w.node("n1")
	n.driver.Shrink(1)
	n.run(provisionFast)
	claim := n.selected("data")
	w.untilEvent(claim, provisioner.ReasonProvisioningFailed, "fewer than the 1048576 requested")
	n.driver.Shrink(0)
	w.untilClaimPhase("data", corev1.ClaimBound)
	n.untilVolumes(1)
	if made, deleted := n.driver.Count("CreateVolume"), n.driver.Count("DeleteVolume"); deleted != made-1 {
		t.Errorf("of %d volumes %d were deleted", made, deleted)
	}
}

// TestProvisionSurvivesARecreatedClaim deletes a claim and makes it anew under its name while its volume is in the
// making: the new claim gets a volume of its own.
func TestProvisionSurvivesARecreatedClaim(t *testing.T) {
	w := newProvisionWorld(t)
	n := w.node("n1")
	var lost atomic.Bool
	lost.Store(true)
	n.driver.After(func(_ context.Context, c csifake.Call) error {
		if c.Method == "CreateVolume" && lost.Load() {
			return status.Error(codes.Unavailable, "the answer was lost")
		}
		return nil
	})
	stop := n.run(provisionFast)
	first := n.selected("data")
	n.untilVolumes(1)
	stop()
	w.deleteClaim("data")
	w.until("the claim is gone", func() (string, error) { return w.present(first) })
	second := n.selected("data")
	lost.Store(false)
	n.run(provisionFast)
	w.untilClaimPhase("data", corev1.ClaimBound)
	w.until("the first volume is gone", func() (string, error) {
		if names := n.driver.Volumes(); len(names) != 1 || names[0] != provisioner.VolumeName(second.UID) {
			return strings.Join(names, ", "), nil
		}
		return "", nil
	})
	n.journalIsEmpty()
}
