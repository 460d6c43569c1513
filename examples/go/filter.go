// Attach a program to an interface, swap it for another, detach, with godbus.
//
// usage: filter INTERFACE OBJECT OLD NEW
package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"
)

type dict = map[string]dbus.Variant

// sealed copies a file so that nobody can change it any more: from callers that are not root, bpflinkd
// takes nothing else.
func sealed(path string) (*os.File, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	fd, err := unix.MemfdCreate("program", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, err
	}
	file := os.NewFile(uintptr(fd), path)
	if _, err = file.Write(data); err == nil {
		seals := unix.F_SEAL_WRITE | unix.F_SEAL_GROW | unix.F_SEAL_SHRINK | unix.F_SEAL_SEAL
		_, err = unix.FcntlInt(file.Fd(), unix.F_ADD_SEALS, seals)
	}
	if err != nil {
		file.Close()
		return nil, err
	}
	return file, nil
}

func run(iface, path, old, new string) error {
	object, err := sealed(path)
	if err != nil {
		return err
	}
	defer object.Close()
	bus, err := dbus.ConnectSystemBus()
	if err != nil {
		return err
	}
	defer bus.Close()
	bpflinkd := bus.Object("org.bpflinkd1", "/org/bpflinkd1")
	program := func(name string) dict {
		return dict{
			"object": dbus.MakeVariant(dbus.UnixFD(object.Fd())),
			"name":   dbus.MakeVariant(name),
		}
	}

	target := dict{"xdp": dbus.MakeVariant(iface)}
	options := dict{"policy": dbus.MakeVariant("alert")}
	call := bpflinkd.Call("org.bpflinkd1.Manager.Attach", 0, "example", target, program(old), options)
	if call.Err != nil {
		return call.Err
	}
	fmt.Println("attached", old)

	var generation uint64
	expected := dict{"expect": dbus.MakeVariant(uint64(1))}
	call = bpflinkd.Call("org.bpflinkd1.Manager.Replace", 0, "example", program(new), expected)
	if err := call.Store(&generation); err != nil {
		return err
	}
	fmt.Println("generation", generation, "runs", new)

	if call = bpflinkd.Call("org.bpflinkd1.Manager.Detach", 0, "example", dict{}); call.Err != nil {
		return call.Err
	}
	fmt.Println("detached")
	return nil
}

func main() {
	if len(os.Args) != 5 {
		fmt.Fprintln(os.Stderr, "usage: filter INTERFACE OBJECT OLD NEW")
		os.Exit(2)
	}
	err := run(os.Args[1], os.Args[2], os.Args[3], os.Args[4])
	// Errors are org.bpflinkd1.Error.*: a sentence and, where the verifier spoke, an empty line and its log.
	var refused dbus.Error
	if errors.As(err, &refused) {
		fmt.Fprintf(os.Stderr, "%s: %s\n", refused.Name, refused.Error())
		os.Exit(1)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
