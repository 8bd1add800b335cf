package provisioner

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"
	"k8s.io/klog/v2"
)

func openJournal(t *testing.T, dir string) *FileJournal {
	t.Helper()
	j, err := OpenFileJournal(dir, klog.Logger{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := j.Close(); err != nil {
			t.Error(err)
		}
	})
	return j
}

func TestJournalSurvivesRestart(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "journal")
	plan := testPlan(t)
	if err := openJournal(t, dir).Record(plan); err != nil {
		t.Fatal(err)
	}
	j := openJournal(t, dir)
	if diff := cmp.Diff([]*Plan{plan}, j.Plans(), protocmp.Transform()); diff != "" {
		t.Errorf("plans after restart (-want +got):\n%s", diff)
	}
	if _, found := j.Lookup(plan.ClaimUID); !found {
		t.Error("the plan is not found by its claim")
	}
	for range 2 {
		if err := j.Forget(plan.ClaimUID); err != nil {
			t.Fatal(err)
		}
	}
	if plans := openJournal(t, dir).Plans(); len(plans) != 0 {
		t.Errorf("a forgotten plan came back: %v", plans)
	}
}

func TestJournalSetsBrokenFilesAside(t *testing.T) {
	dir := t.TempDir()
	plan := testPlan(t)
	if err := openJournal(t, dir).Record(plan); err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string]string{
		"cut.json":     `{"version":1,"plan":{`,
		"future.json":  `{"version":2}`,
		"foreign.json": `{"version":1,"plan":{"claimUID":"a"},"request":{"name":"pvc-b"}}`,
		"x.json.tmp":   `{`,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if plans := openJournal(t, dir).Plans(); len(plans) != 1 {
		t.Errorf("%d plans, want the good one", len(plans))
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	want := []string{"7f3c.json", "cut.json.broken", "foreign.json.broken", "future.json.broken"}
	if diff := cmp.Diff(want, names); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
}

func TestJournalStaysInItsDirectory(t *testing.T) {
	parent := t.TempDir()
	j := openJournal(t, filepath.Join(parent, "journal"))
	plan := testPlan(t)
	plan.ClaimUID = "../escaped"
	plan.Request.Name = VolumeName(plan.ClaimUID)
	if err := j.Record(plan); err == nil {
		t.Error("a plan was recorded outside of the journal's directory")
	}
	if _, err := os.Stat(filepath.Join(parent, "escaped.json")); !os.IsNotExist(err) {
		t.Errorf("stat of the escaped file: %v", err)
	}
}
