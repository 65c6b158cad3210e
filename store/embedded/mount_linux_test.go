package embedded

import "syscall"

func mount(dir string) error {
	return syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=4m")
}

// unmount takes the file system away at once, also while a process that was just forked still holds its files for a moment.
func unmount(dir string) error { return syscall.Unmount(dir, syscall.MNT_DETACH) }
