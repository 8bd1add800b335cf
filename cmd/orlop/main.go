// Command orlop is the bundled cluster: its command line, and the upstream components it runs as child
// processes of itself.
package main

import (
	"fmt"
	"os"
)

func main() {
	if len(os.Args) > 1 {
		if run, ok := components[os.Args[1]]; ok {
			os.Args = append([]string{os.Args[1]}, os.Args[2:]...)
			os.Exit(run())
		}
	}
	fmt.Fprintln(os.Stderr, "orlop: not yet")
	os.Exit(2)
}
