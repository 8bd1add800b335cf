package images

import (
	"errors"
	"testing"
)

func TestRemove(t *testing.T) {
	n := startNode(t)
	ctx, _ := n.client(t)
	pause, err := EnsurePause(ctx, n.socket, n.pause)
	if err != nil {
		t.Fatal(err)
	}
	archive := file(t, dockerArchive(t, "mysql:8", imageOf(t, here, map[string]string{"hello": "world"})))
	if _, err := Import(ctx, n.socket, []string{archive}, nil); err != nil {
		t.Fatal(err)
	}
	if err := Remove(ctx, n.socket, []string{"mysql:8"}); err != nil {
		t.Fatal(err)
	}
	if err := Remove(ctx, n.socket, []string{"mysql:8"}); !errors.Is(err, ErrNoImage) {
		t.Errorf("removing it again: %v", err)
	}
	if err := Remove(ctx, n.socket, []string{pause}); err == nil {
		t.Error("the sandbox image was removed")
	}
	all, err := List(ctx, n.socket)
	if err != nil || len(all) != 1 || all[0].Name != pause {
		t.Errorf("left are %+v, %v; want %s alone", all, err, pause)
	}
}
