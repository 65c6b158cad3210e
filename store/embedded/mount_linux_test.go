package embedded

import "syscall"

func mount(dir string) error {
	return syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=4m")
}
