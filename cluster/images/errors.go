package images

import "errors"

var (
	// ErrNotArchive means that a file is not an image archive: neither a tar file, plain or compressed with gzip
	// or zstd, nor one that holds an OCI image layout or a Docker manifest.json. It is also what a truncated
	// archive gets.
	ErrNotArchive = errors.New("not an OCI or docker image archive")

	// ErrNoName means that an archive does not say what its image is called, so that no pod could ask for it.
	ErrNoName = errors.New("the archive names no image")

	// ErrPlatform means that an archive holds images for other operating systems or processors only.
	ErrPlatform = errors.New("the image is for another platform")

	// ErrIncomplete means that an archive refers to content which it does not hold.
	ErrIncomplete = errors.New("the archive lacks a part of its image")

	// ErrNoImage means that the node has no image of that name.
	ErrNoImage = errors.New("there is no image")

	// ErrNoRuntime means that nothing answers at the containerd socket.
	ErrNoRuntime = errors.New("containerd does not answer")
)
