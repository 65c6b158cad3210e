// Package main writes the comments that package schema embeds. It is run by go generate in the folder of that package, and judges nothing.
package main

import (
	"fmt"
	"os"

	"github.com/causeway-mesh/causeway/test/comments"
)

func main() {
	text, err := comments.Of(os.DirFS("../.."))
	if err == nil {
		err = os.WriteFile("comments.txt", text, 0o644)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
