"""Real servers for a test, on free ports of 127.0.0.1, ended with the program that started them.

SeaweedFS is found as $WEED, OpenSSH as $SSHD (by default /usr/sbin/sshd).
"""
import atexit, json, os, random, shutil, signal, socket, subprocess, sys, time
import http.client, urllib.parse

WEED = os.environ.get("WEED", "weed")
SSHD = os.environ.get("SSHD", "/usr/sbin/sshd")
SFTP_SERVER = os.environ.get("SFTP_SERVER", "/usr/lib/openssh/sftp-server")
KEY, SECRET, BUCKET = "test-key", "test-secret", "replicas"

signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


def environment(key=KEY, secret=SECRET):
    """A child's environment: the credentials of the S3 server, and no proxy or profile."""
    kept = {name: value for name, value in os.environ.items()
            if not name.startswith(("AWS_", "LITESTREAM_")) and not name.lower().endswith("_proxy")}
    return {**kept, "AWS_ACCESS_KEY_ID": key, "AWS_SECRET_ACCESS_KEY": secret,
            "AWS_EC2_METADATA_DISABLED": "true"}


def free_port(also=0):
    """A port that is free, and so is the one `also` above it."""
    for _ in range(1000):
        port = random.randint(11000, 29000)
        try:
            for offset in {0, also}:
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port + offset))
            return port
        except OSError:
            continue
    raise RuntimeError("no free port")


def until(what, condition, seconds=60):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return
        time.sleep(0.05)
    raise RuntimeError("%s: not within %d s" % (what, seconds))


def answers(port):
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
        return True
    except OSError:
        return False


class Server:
    """A process that serves, its output in a file."""

    def __init__(self, folder):
        os.makedirs(folder, exist_ok=True)
        self.folder, self.process = folder, None
        atexit.register(self.stop, signal.SIGKILL)

    def run(self, argv):
        with open(os.path.join(self.folder, "log"), "ab") as log:
            self.process = subprocess.Popen(argv, cwd=self.folder, stdin=subprocess.DEVNULL,
                                            stdout=log, stderr=subprocess.STDOUT)

    def log(self):
        with open(os.path.join(self.folder, "log"), errors="replace") as log:
            return log.read()

    def family(self):
        """The numbers of its process and of those that it has started."""
        parents = {}
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open("/proc/%s/stat" % pid) as stat:
                    parents[int(pid)] = int(stat.read().rsplit(")", 1)[1].split()[1])
            except OSError:
                continue
        family = [self.process.pid]
        for each in family:
            family += [pid for pid, parent in parents.items() if parent == each]
        return family

    def kill(self):
        """Ends it and what it has started at once, as where the machine is lost."""
        for pid in self.family():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self.process.wait(20)

    def stop(self, how=signal.SIGTERM):
        if self.process and self.process.poll() is None:
            self.process.send_signal(how)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(20)


class SeaweedFS(Server):
    """All of SeaweedFS in one process, with one bucket."""

    def __init__(self, folder):
        super().__init__(folder)
        self.ports = {}
        for name in ("master", "volume", "filer", "s3"):
            # Each has a second port for gRPC, 10,000 above.
            self.ports[name] = free_port(also=10000)
        identities = [{"name": "test", "credentials": [{"accessKey": KEY, "secretKey": SECRET}],
                       "actions": ["Admin", "Read", "Write", "List", "Tagging"]},
                      {"name": "reader", "credentials": [{"accessKey": "read-key", "secretKey": SECRET}],
                       "actions": ["Read", "List"]}]
        with open(os.path.join(folder, "s3.json"), "w") as file:
            json.dump({"identities": identities}, file)
        self.endpoint = "http://127.0.0.1:%d" % self.ports["s3"]

    def start(self):
        ports, data = self.ports, os.path.join(self.folder, "data")
        os.makedirs(data, exist_ok=True)
        self.run([WEED, "-logtostderr=true", "-v=0", "server", "-dir=" + data,
                  "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-master.port=%d" % ports["master"],
                  "-master.volumeSizeLimitMB=2048", "-volume.port=%d" % ports["volume"],
                  "-volume.max=60", "-filer", "-filer.port=%d" % ports["filer"],
                  "-s3", "-s3.port=%d" % ports["s3"], "-s3.config=" + os.path.join(self.folder, "s3.json"),
                  "-s3.port.iceberg=0", "-s3.port.lance=0"])
        try:
            until("SeaweedFS", lambda: answers(ports["s3"]) and self.has_a_bucket())
        except RuntimeError as error:
            raise RuntimeError("%s\n%s" % (error, self.log()[-3000:]))
        return self

    def has_a_bucket(self):
        """A bucket is a folder of the filer; a file in it shows that a volume can be written."""
        try:
            made = self.filer("POST", "/buckets/%s/" % BUCKET)[0] in (200, 201, 409)
            return made and self.filer("PUT", "/buckets/%s/.probe" % BUCKET, b"x")[0] in (200, 201) \
                and self.filer("DELETE", "/buckets/%s/.probe" % BUCKET)[0] in (200, 204)
        except OSError:
            return False

    def filer(self, method, path, body=None, headers=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.ports["filer"], timeout=30)
        connection.request(method, urllib.parse.quote(path, safe="/?=&-_.%"), body, headers or {})
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        return answer.status, body

    def tree(self, prefix):
        """The names below a prefix, as the store's own file system has them."""
        return sorted(self.sizes(prefix))

    def sizes(self, prefix):
        """The same with the size of each."""
        found, folders = {}, [prefix.strip("/")]
        while folders:
            folder, last = folders.pop(), ""
            while True:
                status, body = self.filer("GET", "/buckets/%s/%s/?limit=1000&lastFileName=%s"
                                          % (BUCKET, folder, last), None, {"Accept": "application/json"})
                if status != 200:
                    break
                page = json.loads(body)
                for entry in page.get("Entries") or []:
                    path = entry["FullPath"].removeprefix("/buckets/%s/" % BUCKET)
                    if entry["Mode"] & (1 << 31):
                        folders.append(path)
                    else:
                        found[path] = entry["FileSize"]
                if not page.get("ShouldDisplayLoadMore"):
                    break
                last = page["LastFileName"]
        return found

    def url(self, prefix):
        return "s3://%s/%s?endpoint=%s&region=us-east-1&forcePathStyle=true" % (
            BUCKET, prefix, urllib.parse.quote(self.endpoint, safe=":/"))


class OpenSSH(Server):
    """An sshd with keys and configuration of its own, for the user that runs it."""

    def __init__(self, folder, posix_rename=True):
        super().__init__(folder)
        os.chmod(folder, 0o700)
        self.posix_rename, self.port = posix_rename, free_port()
        self.user = os.environ.get("USER") or "root"
        self.key, host = os.path.join(folder, "id"), os.path.join(folder, "host")
        for key in (self.key, host):
            if not os.path.exists(key):
                subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
        with open(host + ".pub") as file:
            self.host_key = " ".join(file.read().split()[:2])
        self.known_hosts = os.path.join(folder, "known_hosts")
        with open(self.known_hosts, "w") as file:
            file.write("[127.0.0.1]:%d %s\n" % (self.port, self.host_key))
        shutil.copy(self.key + ".pub", os.path.join(folder, "authorized"))
        with open(os.path.join(folder, "config"), "w") as file:
            file.write("\n".join([
                "Port %d" % self.port, "ListenAddress 127.0.0.1", "HostKey " + host,
                "AuthorizedKeysFile " + os.path.join(folder, "authorized"), "PidFile none",
                "UsePAM no", "StrictModes no", "PasswordAuthentication no", "PermitRootLogin yes",
                "MaxStartups 200", "MaxSessions 200",
                "Subsystem sftp %s%s" % (SFTP_SERVER, "" if posix_rename else " -P posix-rename"), ""]))

    def start(self):
        os.makedirs("/run/sshd", exist_ok=True)
        self.run([SSHD, "-D", "-e", "-f", os.path.join(self.folder, "config")])
        try:
            until("sshd", lambda: answers(self.port))
        except RuntimeError as error:
            raise RuntimeError("%s\n%s" % (error, self.log()[-3000:]))
        return self

    def config(self, path):
        """Litestream's fields for a replica at `path`: a key can't be given in a URL."""
        return ("      type: sftp\n      host: 127.0.0.1:%d\n      user: %s\n      path: %s\n"
                "      key-path: %s\n      host-key: %s\n"
                % (self.port, self.user, path, self.key, self.host_key))

    def url(self, path):
        """Our URL of the same replica."""
        return "sftp://%s@127.0.0.1:%d%s?%s" % (self.user, self.port, urllib.parse.quote(path), urllib.parse.urlencode(
            {"key-path": self.key, "host-key": self.host_key,
             "atomic-replace": str(self.posix_rename).lower()}))


class Folder:
    """A folder below `work` that holds replicas by name: with `S3` and `Sftp`, where a test of several
    stores has its replicas."""

    def __init__(self, work):
        self.work = work

    def fields(self, name):
        """The fields of a replica in a configuration."""
        return "      type: file\n      path: %s\n" % os.path.join(self.work, name)

    def url(self, name):
        return "file://" + os.path.join(self.work, name)

    def raw(self, name):
        """The names of the files on level 0."""
        folder = os.path.join(self.work, name, "ltx", "0")
        return sorted(os.listdir(folder)) if os.path.isdir(folder) else []

    def stored(self, name):
        """The sizes of all files, by their paths."""
        found = {}
        for folder, _, names in os.walk(os.path.join(self.work, name)):
            for path in (os.path.join(folder, each) for each in names):
                # What is being written has another name soon, and what is old is deleted.
                if path.endswith(".ltx") and os.path.exists(path):
                    found[path] = os.path.getsize(path)
        return found

    def remove(self, name):
        shutil.rmtree(os.path.join(self.work, name), ignore_errors=True)

    def put(self, file, name):
        """The command that stores a file there by itself, on the disk."""
        return ["dd", "if=" + file, "of=" + self.place(name), "bs=1M", "conv=fsync"]

    def place(self, name):
        os.makedirs(os.path.join(self.work, name))
        return os.path.join(self.work, name, "plain.ltx")


class S3:
    """A bucket of SeaweedFS."""

    def __init__(self, work):
        self.server = SeaweedFS(os.path.join(work, "seaweedfs")).start()

    def fields(self, name):
        return ("      type: s3\n      bucket: %s\n      path: %s\n      endpoint: %s\n"
                "      region: us-east-1\n      force-path-style: true\n"
                % (BUCKET, name, self.server.endpoint))

    def url(self, name):
        return self.server.url(name)

    def raw(self, name):
        return [path.rsplit("/", 1)[1] for path in self.server.tree(name + "/0000")]

    def stored(self, name):
        return self.server.sizes(name)

    def remove(self, name):
        self.server.filer("DELETE", "/buckets/%s/%s?recursive=true" % (BUCKET, name))

    def put(self, file, name):
        return ["curl", "--silent", "--show-error", "--fail", "--aws-sigv4", "aws:amz:us-east-1:s3",
                "--user", KEY + ":" + SECRET, "--header", "x-amz-content-sha256: UNSIGNED-PAYLOAD",
                "--upload-file", file, "%s/%s/%s/plain.ltx" % (self.server.endpoint, BUCKET, name)]


class Sftp(Folder):
    """A folder below `work`, reached through OpenSSH."""

    def __init__(self, work):
        super().__init__(work)
        self.server = OpenSSH(os.path.join(work, "sshd")).start()

    def fields(self, name):
        return self.server.config(os.path.join(self.work, name))

    def url(self, name):
        return self.server.url(os.path.join(self.work, name))

    def put(self, file, name):
        server = self.server
        batch = os.path.join(server.folder, "batch")
        with open(batch, "w") as commands:
            commands.write("put -f %s %s\n" % (file, self.place(name)))
        return ["sftp", "-q", "-b", batch, "-P", str(server.port), "-i", server.key,
                "-o", "UserKnownHostsFile=" + server.known_hosts, server.user + "@127.0.0.1"]


STORES = {"folder": Folder, "s3": S3, "sftp": Sftp}
