package provisioner

import "testing"

func TestRoundDown(t *testing.T) {
	for in, want := range map[int64]int64{
		-1: 0, 0: 0, 1: 1, 63: 63, 64: 64, 65: 64, 127: 126, 128: 128, 1<<40 + 1: 1 << 40,
		1<<63 - 1: 63 << 57,
	} {
		got := roundDown(in)
		if got != want {
			t.Errorf("%d is rounded to %d, want %d", in, got, want)
		}
		if in > 0 && (got > in || float64(got) < 0.96*float64(in)) {
			t.Errorf("%d is too far from %d", got, in)
		}
	}
}

func TestCapacityNamesKeepApart(t *testing.T) {
	a := &capacityPublisher{driver: &driverClient{name: "d"}, node: "n1"}
	b := &capacityPublisher{driver: &driverClient{name: "d"}, node: "n2"}
	if a.manager() == b.manager() || a.objectName("x") == b.objectName("x") || a.objectName("x") == a.objectName("y") {
		t.Error("two nodes or two classes share a name")
	}
	var none *capacityPublisher
	none.changed()
}
