// Command peer writes and lists tars with Go's archive/tar, for comparisons byte by byte.
//
//	peer write    entries as lines on standard input, a tar on standard output
//	peer list     a tar on standard input, lines on standard output, then "end" or "error"
//	peer gunzip   a gzip stream on standard input, its content on standard output
//	peer gzip     the reverse, at the default level
//
// A line has these fields, text in hexadecimal, "-" for none:
//
//	typeflag name link mode uid gid size seconds nanoseconds major minor attributes
//
// A listing has the SHA-256 of the content as one more field.
package main

import (
	"archive/tar"
	"bufio"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"sort"
	"strconv"
	"strings"
	"time"
)

const xattrPrefix = "SCHILY.xattr."

func main() {
	var err error
	switch os.Args[1] {
	case "write":
		err = write(os.Stdin, os.Stdout)
	case "list":
		err = list(os.Stdin, os.Stdout)
	case "gunzip":
		var r *gzip.Reader
		if r, err = gzip.NewReader(bufio.NewReader(os.Stdin)); err == nil {
			_, err = io.Copy(os.Stdout, r)
		}
	case "gzip":
		w := gzip.NewWriter(os.Stdout)
		if _, err = io.Copy(w, os.Stdin); err == nil {
			err = w.Close()
		}
	default:
		err = fmt.Errorf("unknown command %q", os.Args[1])
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func unhex(s string) string {
	if s == "-" {
		return ""
	}
	b, err := hex.DecodeString(s)
	if err != nil {
		panic(err)
	}
	return string(b)
}

func tohex(s string) string {
	if s == "" {
		return "-"
	}
	return hex.EncodeToString([]byte(s))
}

func number(s string) int64 {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		panic(err)
	}
	return n
}

// write does what containerd's ChangeWriter does with headers: PAX allowed, no access and change times.
func write(r io.Reader, w io.Writer) error {
	out := bufio.NewWriter(w)
	tw := tar.NewWriter(out)
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 8<<20)
	for lines.Scan() {
		f := strings.Fields(lines.Text())
		hdr := &tar.Header{
			Typeflag: f[0][0],
			Name:     unhex(f[1]),
			Linkname: unhex(f[2]),
			Mode:     number(f[3]),
			Uid:      int(number(f[4])),
			Gid:      int(number(f[5])),
			Size:     number(f[6]),
			ModTime:  time.Unix(number(f[7]), number(f[8])),
			Devmajor: number(f[9]),
			Devminor: number(f[10]),
			Format:   tar.FormatPAX,
		}
		if f[11] != "-" {
			hdr.PAXRecords = map[string]string{}
			for _, pair := range strings.Split(f[11], ",") {
				name, value, _ := strings.Cut(pair, ":")
				hdr.PAXRecords[xattrPrefix+unhex(name)] = unhex(value)
			}
		}
		if err := tw.WriteHeader(hdr); err != nil {
			return fmt.Errorf("%s: %w", f[1], err)
		}
		// Headers of files too large to be written here stand alone, with the content left out.
		if hdr.Size > 1<<20 {
			return out.Flush()
		}
		if _, err := tw.Write([]byte(strings.Repeat("x", int(hdr.Size)))); err != nil {
			return err
		}
	}
	if err := tw.Close(); err != nil {
		return err
	}
	return out.Flush()
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
		sum := sha256.New()
		digest := "error"
		if _, err := io.Copy(sum, tr); err == nil {
			digest = hex.EncodeToString(sum.Sum(nil))
		}
		var xattrs []string
		for key, value := range hdr.PAXRecords {
			if strings.HasPrefix(key, xattrPrefix) && hdr.Typeflag != tar.TypeXGlobalHeader {
				xattrs = append(xattrs, tohex(key[len(xattrPrefix):])+":"+tohex(value))
			}
		}
		sort.Strings(xattrs)
		attributes := strings.Join(xattrs, ",")
		if attributes == "" {
			attributes = "-"
		}
		size := hdr.Size
		switch hdr.Typeflag {
		case tar.TypeLink, tar.TypeSymlink, tar.TypeChar, tar.TypeBlock, tar.TypeDir, tar.TypeFifo:
			size = 0
		}
		fmt.Fprintf(out, "%c %s %s %d %d %d %d %d %d %d %d %s %s\n", hdr.Typeflag, tohex(hdr.Name), tohex(hdr.Linkname),
			hdr.Mode, hdr.Uid, hdr.Gid, size, hdr.ModTime.Unix(), hdr.ModTime.Nanosecond(), hdr.Devmajor, hdr.Devminor,
			attributes, digest)
	}
}
