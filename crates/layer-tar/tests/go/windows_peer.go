// Command windows_peer writes and lists layers of Windows with Go's archive/tar, for comparisons byte by byte: with
// the headers that go-winio's backuptar and hcsshim's exporter hand to it, and with what they look at when they read.
//
//	windows_peer write    entries as lines on standard input, a tar on standard output
//	windows_peer list     a tar on standard input, lines on standard output, then "end" or "error"
//
// A line to be written has these fields, text in hexadecimal, times as seconds:nanoseconds, "-" for none:
//
//	what name size attributes written accessed changed made descriptor eas target junction
//
// where what is add, stream, link or remove. A stream belongs to the last entry that was added.
package main

import (
	"archive/tar"
	"bufio"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"sort"
	"strconv"
	"strings"
	"time"
)

const (
	attributeDirectory = 0x10

	modeDirectory = 0o040000
	modeRegular   = 0o100000
	modeSymlink   = 0o120000
	modeHardLink  = 0o644
)

func main() {
	var err error
	switch os.Args[1] {
	case "write":
		err = write(os.Stdin, os.Stdout)
	case "list":
		err = list(os.Stdin, os.Stdout)
	default:
		err = fmt.Errorf("unknown command %q", os.Args[1])
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

func unhex(s string) string {
	if s == "-" {
		return ""
	}
	return string(must(hex.DecodeString(s)))
}

func tohex(s string) string {
	if s == "" {
		return "-"
	}
	return hex.EncodeToString([]byte(s))
}

func instant(s string) time.Time {
	secs, nanos, _ := strings.Cut(s, ":")
	return time.Unix(must(strconv.ParseInt(secs, 10, 64)), must(strconv.ParseInt(nanos, 10, 64)))
}

func print(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return fmt.Sprintf("%d:%d", t.Unix(), t.Nanosecond())
}

// decimal is a time in the text of a PAX record: rounded down in seconds, towards zero in text.
func decimal(t time.Time) string {
	secs, nanos := t.Unix(), int64(t.Nanosecond())
	sign := ""
	if secs < 0 && nanos > 0 {
		sign, secs, nanos = "-", -secs-1, 1_000_000_000-nanos
	}
	if nanos == 0 {
		return strconv.FormatInt(secs, 10)
	}
	return sign + strings.TrimRight(fmt.Sprintf("%d.%09d", secs, nanos), "0")
}

func write(r io.Reader, w io.Writer) error {
	out := bufio.NewWriter(w)
	tw := tar.NewWriter(out)
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 8<<20)
	var last *tar.Header
	for lines.Scan() {
		f := strings.Fields(lines.Text())
		what, name, size := f[0], unhex(f[1]), must(strconv.ParseInt(f[2], 10, 64))
		var hdr *tar.Header
		switch what {
		case "remove":
			hdr = &tar.Header{Name: name}
		case "stream":
			// Its file's header, without the records.
			hdr = &tar.Header{
				Format:     tar.FormatPAX,
				Typeflag:   tar.TypeReg,
				Name:       name,
				Size:       size,
				Mode:       last.Mode,
				ModTime:    last.ModTime,
				AccessTime: last.AccessTime,
				ChangeTime: last.ChangeTime,
			}
		default:
			hdr = entry(f, name, size)
			if what == "add" {
				last = hdr
			}
		}
		if err := tw.WriteHeader(hdr); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if hdr.Typeflag == tar.TypeReg {
			if _, err := tw.Write([]byte(strings.Repeat("x", int(hdr.Size)))); err != nil {
				return err
			}
		}
	}
	if err := tw.Close(); err != nil {
		return err
	}
	return out.Flush()
}

func entry(f []string, name string, size int64) *tar.Header {
	attributes := must(strconv.ParseUint(f[3], 10, 32))
	hdr := &tar.Header{
		Format:     tar.FormatPAX,
		Typeflag:   tar.TypeReg,
		Name:       name,
		Size:       size,
		ModTime:    instant(f[4]),
		AccessTime: instant(f[5]),
		ChangeTime: instant(f[6]),
		PAXRecords: map[string]string{
			"MSWINDOWS.fileattr":      strconv.FormatUint(attributes, 10),
			"LIBARCHIVE.creationtime": decimal(instant(f[7])),
		},
	}
	directory := attributes&attributeDirectory != 0
	if directory {
		hdr.Typeflag, hdr.Size = tar.TypeDir, 0
		hdr.Mode |= modeDirectory
	}
	if f[0] == "link" {
		hdr.Typeflag, hdr.Mode, hdr.Linkname = tar.TypeLink, modeHardLink, unhex(f[10])
		return hdr
	}
	if f[8] != "-" {
		hdr.PAXRecords["MSWINDOWS.rawsd"] = base64.StdEncoding.EncodeToString([]byte(unhex(f[8])))
	}
	if f[9] != "-" {
		for _, pair := range strings.Split(f[9], ",") {
			key, value, _ := strings.Cut(pair, ":")
			hdr.PAXRecords["MSWINDOWS.xattr."+unhex(key)] = base64.StdEncoding.EncodeToString([]byte(unhex(value)))
		}
	}
	if f[10] != "-" {
		hdr.Typeflag, hdr.Linkname = tar.TypeSymlink, unhex(f[10])
		hdr.Mode |= modeSymlink
		if f[11] == "1" {
			hdr.PAXRecords["MSWINDOWS.mountpoint"] = "1"
		}
	} else if !directory {
		hdr.Mode |= modeRegular
	}
	return hdr
}

func list(r io.Reader, w io.Writer) error {
	out := bufio.NewWriter(w)
	defer out.Flush()
	tr := tar.NewReader(bufio.NewReader(r))
	for {
		hdr, err := tr.Next()
		if err == io.EOF {
			fmt.Fprintln(out, "end")
			return nil
		}
		if err != nil {
			fmt.Fprintln(out, "error")
			return nil
		}
		var records []string
		for key, value := range hdr.PAXRecords {
			if strings.HasPrefix(key, "MSWINDOWS.") || key == "LIBARCHIVE.creationtime" {
				records = append(records, key+":"+tohex(value))
			}
		}
		sort.Strings(records)
		size := hdr.Size
		if hdr.Typeflag != tar.TypeReg {
			size = 0
		}
		fmt.Fprintf(out, "%c %s %s %d %s %s %s %s\n", hdr.Typeflag, tohex(hdr.Name), tohex(hdr.Linkname), size,
			print(hdr.ModTime), print(hdr.AccessTime), print(hdr.ChangeTime), strings.Join(records, ","))
	}
}
