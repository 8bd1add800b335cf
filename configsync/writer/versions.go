package writer

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/orlop-io/orlop/configsync/payload"
)

// nameTime is the layout of a generation's name up to its random end, in UTC, as upstream's.
const nameTime = "..2006_01_02_15_04_05"

// Generation is what a volume shows.
type Generation struct {
	// Name is the generation's directory in the volume; it holds the time it was written.
	Name string
	// Objects are those it was made of. Their versions are the newest that the files agree with: an edit that changes no
	// file changes the version alone.
	Objects []payload.Version
	// Noted is false where something else than a Writer wrote it, upstream's kubelet say: it has no Objects then.
	Noted bool
}

// Time returns when the files were written, in whole seconds, and the zero time where the name does not tell.
func (g Generation) Time() time.Time {
	digits, _, _ := strings.Cut(strings.TrimPrefix(g.Name, ".."), ".")
	t, err := time.Parse(nameTime, ".."+digits)
	if err != nil {
		return time.Time{}
	}
	return t
}

// ReadGeneration returns the generation that is visible in a volume's directory, and false where there is none, or no
// such directory. It changes nothing, and may be called while another process writes the volume.
func ReadGeneration(dir string) (_ Generation, ok bool, err error) {
	root, err := os.OpenRoot(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return Generation{}, false, nil
	}
	if err != nil {
		return Generation{}, false, fmt.Errorf("configuration volume: %w", err)
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	name, err := readCurrent(root)
	if err != nil || name == "" {
		return Generation{}, false, err
	}
	doc, err := readDocument(root, name)
	if err != nil {
		return Generation{}, false, err
	}
	if doc == nil {
		return Generation{Name: name}, true, nil
	}
	return Generation{Name: name, Objects: doc.Objects, Noted: true}, true, nil
}

// document is the file ..generation. It holds names and versions, which the pod's own manifest tells as well.
type document struct {
	Objects []payload.Version `json:"objects"`
}

// readDocument returns what a generation tells of itself, nil where it tells nothing.
func readDocument(root *os.Root, generation string) (*document, error) {
	raw, err := root.ReadFile(path.Join(generation, generationFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("configuration volume %s: %w", root.Name(), err)
	}
	var doc document
	if err := json.Unmarshal(raw, &doc); err != nil {
		return nil, fmt.Errorf("%s: %w", path.Join(root.Name(), generation, generationFile), err)
	}
	return &doc, nil
}

// note writes the payload's objects into a file of the generation.
func (w *Writer) note(gen *os.Root, name string, p payload.Payload) error {
	doc, err := json.Marshal(document{Objects: p.Objects})
	if err != nil {
		return err
	}
	return w.file(gen, name, payload.File{Data: append(doc, '\n'), Mode: 0o444, UID: -1, GID: p.GID})
}

// vouch notes the versions of the objects where an edit changed no file, so that whoever compares them with the API's
// sees that the files are current. The files themselves, and ..data, stay as they are.
func (w *Writer) vouch(root *os.Root, generation string, p payload.Payload) (err error) {
	// What cannot be read is written anew.
	old, err := readDocument(root, generation)
	if err == nil && old != nil && slices.Equal(old.Objects, p.Objects) {
		return nil
	}
	gen, err := root.OpenRoot(generation)
	if err != nil {
		return fmt.Errorf("configuration volume %s: %w", w.dir, err)
	}
	defer func() { err = errors.Join(err, gen.Close()) }()
	if err := w.do(StepClearNote, func() error { return gen.RemoveAll(generationTmp) }); err != nil {
		return err
	}
	if err := w.note(gen, generationTmp, p); err != nil {
		return err
	}
	return w.do(StepNote, func() error { return gen.Rename(generationTmp, generationFile) })
}
