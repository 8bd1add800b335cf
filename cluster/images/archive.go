package images

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/klauspost/compress/zstd"
)

// Where a tar header keeps its magic, and how long one is (POSIX ustar; GNU tar differs after "ustar" only).
const (
	tarMagicOffset = 257
	tarHeaderSize  = 512
)

var (
	gzipMagic = []byte{0x1f, 0x8b}
	zstdMagic = []byte{0x28, 0xb5, 0x2f, 0xfd}
	tarMagic  = []byte("ustar")
)

// archiveFile is an open image archive. Reading it yields the tar stream, decompressed.
type archiveFile struct {
	io.Reader
	file   *os.File
	finish func() error
}

// openArchive opens the archive at path and looks at its first bytes. The errors are those of opening the file,
// and ErrNotArchive. The caller closes what is returned.
func openArchive(path string) (*archiveFile, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	archive, err := decompress(file)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", path, err), file.Close())
	}
	return archive, nil
}

func decompress(file *os.File) (*archiveFile, error) {
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	if info.IsDir() {
		return nil, fmt.Errorf("%w but a directory: pack its contents with tar first", ErrNotArchive)
	}

	archive := &archiveFile{file: file, finish: func() error { return nil }}
	raw := bufio.NewReaderSize(file, 1<<20)
	magic, err := raw.Peek(len(zstdMagic))
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	var plain io.Reader = raw
	switch {
	case bytes.HasPrefix(magic, gzipMagic):
		unzip, err := gzip.NewReader(raw)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrNotArchive, err)
		}
		plain, archive.finish = unzip, unzip.Close
	case bytes.HasPrefix(magic, zstdMagic):
		unzip, err := zstd.NewReader(raw)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrNotArchive, err)
		}
		plain, archive.finish = unzip, func() error { unzip.Close(); return nil }
	}

	tar := bufio.NewReaderSize(plain, tarHeaderSize)
	header, err := tar.Peek(tarHeaderSize)
	if err != nil || !bytes.HasPrefix(header[tarMagicOffset:], tarMagic) {
		return nil, errors.Join(ErrNotArchive, archive.finish())
	}
	archive.Reader = damageReader{tar}
	return archive, nil
}

// damageReader tells errors in what was read, such as a wrong checksum, from failures to read the file at all.
type damageReader struct{ io.Reader }

func (d damageReader) Read(p []byte) (int, error) {
	n, err := d.Reader.Read(p)
	var path *fs.PathError
	if err != nil && !errors.Is(err, io.EOF) && !errors.As(err, &path) {
		err = fmt.Errorf("%w, or damaged: %w", ErrNotArchive, err)
	}
	return n, err
}

// Close releases the decompressor and the file.
func (a *archiveFile) Close() error {
	return errors.Join(a.finish(), a.file.Close())
}
