#!/usr/bin/env bash
# Makes a corpus of real system logs: installs a set of daemons, runs them under bounded load on the loopback
# interface, and keeps what they log. Every line is written by the program named in the file's name.
#
#   collect_logs.sh OUT [ROUNDS]      # as root, in a throwaway Debian 12 container or chroot
#
# Needs a Debian mirror (with `deb-src` for the build logs) while it installs and builds; the load itself runs
# in a network namespace of its own that has nothing but `lo`, so no request can leave it. Writes
#
#   OUT/raw/     what the programs logged
#   OUT/corpus/  <source>.log, sanitised, one line one record, no source above 20 % of the whole
#   OUT/VERSIONS the programs and their versions
#
# Clocks: each round shifts the daemons' clocks with libfaketime and lets them run faster, so that the corpus
# does not teach one date. Apart from times and what `sanitise` replaces, nothing in a line is edited.
set -u
OUT=$(realpath -m "${1:?usage: collect_logs.sh OUT [ROUNDS]}")
ROUNDS=${2:-4}
RAW=$OUT/raw
SELF=$(realpath "$0")
export DEBIAN_FRONTEND=noninteractive LC_ALL=C
mkdir -p "$RAW" "$OUT/corpus"

PACKAGES=(
  "rsyslog cron openssh-server openssh-client sshpass faketime libfaketime python3 procps iproute2"
  "nginx-light apache2 apache2-utils haproxy curl"
  "redis-server memcached mosquitto mosquitto-clients"
  "postgresql postgresql-contrib"
  "mariadb-server"
  "dnsmasq-base unbound"
  "postfix dovecot-imapd"
  "squid tinyproxy vsftpd lighttpd"
  "slapd ldap-utils"
  "gcc make libc6-dev dpkg-dev autoconf automake libtool pkg-config cmake"
  "python3-pip python3-venv python3-dev git strace logrotate"
)
SOURCES=(zlib jansson lz4)  # built from source with every command shown
WHEELS=(markupsafe simplejson)  # built with pip -vv

# ------------------------------------------------------------------------------------- packages and builds

install_packages() {
  printf '#!/bin/sh\nexit 101\n' > /usr/sbin/policy-rc.d && chmod +x /usr/sbin/policy-rc.d
  apt-get update
  for group in "${PACKAGES[@]}"; do
    # shellcheck disable=SC2086
    apt-get install -y --no-install-recommends $group
  done
}

build() {
  local dir
  dir=$(mktemp -d) && cd "$dir" || return
  for package in "${SOURCES[@]}"; do
    apt-get source -y "$package" && (cd "$package"-*/ && { [ ! -x configure ] || ./configure; } && timeout 200 make -k V=1)
  done > "$RAW/build-c.log" 2>&1
  python3 -m venv venv
  for wheel in "${WHEELS[@]}"; do
    timeout 200 venv/bin/pip -vv install --no-binary :all: "$wheel"
  done > "$RAW/build-pip.log" 2>&1
  rm -rf "$dir"
}

# --------------------------------------------------------------------------------------------- the daemons

# Sets this round's clock for the daemons started from here on.
clock() {
  FAKED=(env LD_PRELOAD="$(echo /usr/lib/*/faketime/libfaketimeMT.so.1)" FAKETIME="$1"
    FAKETIME_DONT_FAKE_MONOTONIC=1 FAKETIME_DISABLE_SHM=1)
}
# Runs a daemon with that clock (those built with jemalloc do not bear the library); always in the background, so that `$!` is the daemon.
shifted() { exec "${FAKED[@]}" "$@"; }
as_postgres() { setpriv --reuid postgres --regid postgres --clear-groups "$@"; }

# A network of its own: only `lo`, on which documentation and private ranges are local addresses.
network() {
  hostname "$HOST"
  ip link set lo up
  local net
  for net in 192.0.2.0/24 198.51.100.0/24 203.0.113.0/24 10.20.0.0/16 172.20.0.0/16 192.168.0.0/16 198.18.0.0/15; do
    ip route add local "$net" dev lo
  done
  printf '127.0.0.1 localhost\n192.0.2.10 %s www.example.org\n' "$HOST" > "$W/hosts"
  echo 'nameserver 127.0.0.53' > "$W/resolv.conf"
  mount --bind "$W/hosts" /etc/hosts
  mount --bind "$W/resolv.conf" /etc/resolv.conf
}

syslog_up() {
  rm -f /dev/log
  cat > "$W/rsyslog.conf" <<E
module(load="imuxsock" SysSock.RateLimit.Interval="0" SysSock.UseSysTimeStamp="off")
module(load="imudp")
input(type="imudp" port="514" address="127.0.0.1")
\$ActionFileDefaultTemplate $SYSLOG_FORMAT
auth,authpriv.*   $RAW/auth.$R.log
mail.*            $RAW/mail.$R.log
local1.*          $RAW/haproxy.$R.log
local4.*          $RAW/slapd.$R.log
*.*;auth,authpriv,mail,local1,local4.none   $RAW/daemon.$R.log
E
  shifted rsyslogd -n -f "$W/rsyslog.conf" -i "$W/rsyslog.pid" & PIDS+=($!)
  sleep 1
}

nginx_up() {
  mkdir -p "$W/www/assets" "$W/www/img"
  for f in index.html about.html assets/app.js assets/site.css img/logo.png img/hero.jpg feed.xml robots.txt; do
    head -c $((RANDOM % 20000 + 300)) /dev/urandom > "$W/www/$f"
  done
  chmod -R a+rX "$W"
  local format
  case $R in
    0) format='combined' ;;
    1) format='main'; ;;
    *) format='timed' ;;
  esac
  cat > "$W/nginx.conf" <<E
env LD_PRELOAD; env FAKETIME; env FAKETIME_DONT_FAKE_MONOTONIC; env FAKETIME_DISABLE_SHM;
worker_processes 2; pid $W/nginx.pid; error_log $RAW/nginx-error.$R.log info;
events { worker_connections 256; }
http {
  log_format main '\$remote_addr - \$remote_user [\$time_local] "\$request" \$status \$body_bytes_sent "\$http_referer" "\$http_user_agent" "\$http_x_forwarded_for"';
  log_format timed '\$time_iso8601 \$server_name \$remote_addr:\$remote_port "\$request" \$status \$bytes_sent rt=\$request_time ua="\$http_user_agent" us=\$upstream_status ut=\$upstream_response_time';
  access_log $RAW/nginx-access.$R.log $format;
  limit_req_zone \$binary_remote_addr zone=login:1m rate=2r/s;
  client_body_temp_path $W/body; proxy_temp_path $W/proxy;
  server {
    listen 80 default_server; server_name www.example.org; root $W/www;
    location /old/ { return 301 /new/\$request_uri; }
    location /admin/ { deny all; }
    location /login { limit_req zone=login burst=3; return 302 /; }
    location /private/ { auth_basic "staff"; auth_basic_user_file $W/htpasswd; }
    location /api/ { proxy_pass http://127.0.0.1:8081; proxy_connect_timeout 1s; }
    location /gone/ { proxy_pass http://127.0.0.1:9; proxy_connect_timeout 1s; }
    location /fail { return 500; }
    location /busy { return 503; }
  }
}
E
  htpasswd -bc "$W/htpasswd" alice secret 2> /dev/null
  shifted nginx -c "$W/nginx.conf" -g 'daemon off;' & PIDS+=($!)
}

apache_up() {
  local format level
  format=$([ $((R % 2)) = 0 ] && echo combined || echo vhost)
  level=$([ $((R % 2)) = 0 ] && echo info || echo "warn core:info authz_core:debug proxy:debug")
  cat > "$W/apache.conf" <<E
ServerRoot $W
PidFile $W/apache.pid
Listen 8081
ServerName app.example.org
$(for m in mpm_event authn_core authn_file authz_core authz_user authz_host auth_basic dir mime alias rewrite autoindex status proxy proxy_http negotiation; do
  echo "LoadModule ${m}_module /usr/lib/apache2/modules/mod_$m.so"; done)
LogFormat "%h %l %u %t \"%r\" %>s %O \"%{Referer}i\" \"%{User-Agent}i\"" combined
LogFormat "%v:%p %h %l %u %t \"%r\" %>s %O \"%{Referer}i\" \"%{User-Agent}i\" %D" vhost
CustomLog $RAW/apache-access.$R.log $format
ErrorLog $RAW/apache-error.$R.log
LogLevel $level
DocumentRoot $W/www
TypesConfig /etc/mime.types
<Directory />
  Require all granted
  Options +Indexes
</Directory>
<Location /api/admin>
  Require ip 10.99.0.0/16
</Location>
<Location /api/private>
  AuthType Basic
  AuthName staff
  AuthUserFile $W/htpasswd
  Require valid-user
</Location>
<Location /server-status>
  SetHandler server-status
</Location>
ProxyPass /api/backend http://127.0.0.1:9/
RewriteEngine on
RewriteRule ^/api/v1/(.*) /api/v2/\$1 [R=301,L]
E
  touch /etc/mime.types
  shifted apache2 -f "$W/apache.conf" -DFOREGROUND & PIDS+=($!)
}

proxies_up() {
  cat > "$W/haproxy.cfg" <<E
global
  log 127.0.0.1:514 local1 info
  maxconn 500
defaults
  mode http
  log global
  option httplog
  $([ $((R % 2)) = 0 ] && echo "option dontlognull")
  timeout connect 1s
  timeout client 3s
  timeout server 3s
frontend fe_main
  bind :8090
  acl is_api path_beg /api
  http-request deny if { path_beg /admin }
  use_backend be_api if is_api
  use_backend be_down if { path_beg /gone }
  default_backend be_static
backend be_api
  balance roundrobin
  server api1 127.0.0.1:8081 check inter 2s
  server api2 127.0.0.1:8082 check inter 2s
backend be_static
  server web1 127.0.0.1:80 check
backend be_down
  server dead1 127.0.0.1:9 check inter 1s
E
  haproxy -db -f "$W/haproxy.cfg" > /dev/null 2>&1 & PIDS+=($!)
  mkdir -p "$W/squid" && chown proxy "$W/squid" && touch "$RAW/squid-access.$R.log" "$RAW/squid-cache.$R.log" && chown proxy "$RAW"/squid-*."$R".log
  cat > "$W/squid.conf" <<E
http_port 3128
cache_effective_user proxy
pid_filename none
cache_mem 8 MB
visible_hostname proxy.example.org
hosts_file $W/hosts
acl bad dstdomain .blocked.example
http_access deny bad
http_access allow all
access_log stdio:$RAW/squid-access.$R.log $([ $((R % 2)) = 0 ] && echo squid || echo combined)
cache_log $RAW/squid-cache.$R.log
debug_options ALL,1
coredump_dir $W/squid
E
  shifted squid -N -f "$W/squid.conf" > /dev/null 2>&1 & PIDS+=($!)
  cat > "$W/tinyproxy.conf" <<E
Port 8888
Timeout 5
LogFile "$RAW/tinyproxy.$R.log"
LogLevel Info
MaxClients 50
Allow 192.0.2.0/24
Allow 10.20.0.0/16
ConnectPort 443
E
  shifted tinyproxy -d -c "$W/tinyproxy.conf" > /dev/null 2>&1 & PIDS+=($!)
  cat > "$W/lighttpd.conf" <<E
server.document-root = "$W/www"
server.port = 8082
server.modules = ("mod_access", "mod_accesslog", "mod_redirect")
server.errorlog = "$RAW/lighttpd-error.$R.log"
accesslog.filename = "$RAW/lighttpd-access.$R.log"
url.redirect = ("^/old/(.*)" => "/\$1")
url.access-deny = ("~", ".inc", ".env")
debug.log-request-handling = "enable"
E
  shifted lighttpd -D -f "$W/lighttpd.conf" & PIDS+=($!)
}

databases_up() {
  local bin prefix
  bin=$(echo /usr/lib/postgresql/*/bin)
  case $R in
    0) prefix='%m [%p] %q%u@%d ' ;;
    1) prefix='%t [%p]: [%l-1] user=%u,db=%d,app=%a,client=%h ' ;;
    2) prefix='%m [%p] ' ;;
    *) prefix='%t %c %h %d %u %e ' ;;
  esac
  mkdir -p "$W/pg" && chown postgres "$W/pg"
  as_postgres "$bin/initdb" -D "$W/pg/data" -A trust > /dev/null
  cat >> "$W/pg/data/postgresql.conf" <<E
listen_addresses = '*'
unix_socket_directories = '$W/pg'
log_line_prefix = '$prefix'
log_statement = 'all'
log_duration = $([ $((R % 2)) = 0 ] && echo on || echo off)
log_connections = on
log_disconnections = on
log_checkpoints = on
log_lock_waits = on
log_autovacuum_min_duration = 0
autovacuum_naptime = 5
log_temp_files = 0
work_mem = 64kB
max_wal_size = 32MB
checkpoint_timeout = 30
deadlock_timeout = 100ms
E
  echo "host all all 0.0.0.0/0 $([ $((R % 2)) = 0 ] && echo trust || echo scram-sha-256)" >> "$W/pg/data/pg_hba.conf"
  as_postgres "${FAKED[@]}" "$bin/postgres" -D "$W/pg/data" >> "$RAW/postgres.$R.log" 2>&1 & PIDS+=($!)
  mariadb-install-db --user=mysql --datadir="$W/my" --auth-root-authentication-method=normal > "$RAW/mariadb-install.$R.log" 2>&1
  touch "$RAW/mariadb-general.$R.log" "$RAW/mariadb-error.$R.log" "$RAW/mariadb-slow.$R.log"
  chown mysql "$RAW"/mariadb-*."$R".log
  shifted mariadbd --no-defaults --user=mysql --datadir="$W/my" --socket="$W/my/my.sock" --port=3306 --log-warnings=9 \
    --general-log=1 --general-log-file="$RAW/mariadb-general.$R.log" --log-error="$RAW/mariadb-error.$R.log" \
    --slow-query-log=1 --long-query-time=0.002 --slow-query-log-file="$RAW/mariadb-slow.$R.log" & PIDS+=($!)
  redis-server --port 6379 --bind 0.0.0.0 --protected-mode no --dir "$W" --loglevel debug --save 5 10 --appendonly yes \
    --logfile "$RAW/redis.$R.log" & PIDS+=($!)
  shifted memcached -u nobody -vv > "$RAW/memcached.$R.log" 2>&1 & PIDS+=($!)
}

messaging_up() {
  cat > "$W/mosquitto.conf" <<E
listener 1883
allow_anonymous $([ $((R % 2)) = 0 ] && echo true || echo false)
password_file $W/mqtt.pw
log_type all
log_dest stdout
connection_messages true
log_timestamp_format $([ $((R % 2)) = 0 ] && echo "%Y-%m-%dT%H:%M:%S" || echo "%b %e %H:%M:%S")
E
  touch "$W/mqtt.pw"; mosquitto_passwd -b "$W/mqtt.pw" sensor secret; chmod a+r "$W/mqtt.pw"
  shifted mosquitto -c "$W/mosquitto.conf" > "$RAW/mosquitto.$R.log" 2>&1 & PIDS+=($!)
  dnsmasq -k --port=53 --listen-address=127.0.0.53 --bind-interfaces --no-resolv --no-hosts --log-queries=extra \
    --address=/example.org/192.0.2.10 --address=/blocked.example/ --ptr-record=10.2.0.192.in-addr.arpa,www.example.org \
    --user=root --pid-file= --log-facility=daemon & PIDS+=($!)
  # The server of its only zone is an address where nobody listens: what it logs are failures.
  cat > "$W/unbound.conf" <<E
server:
  interface: 127.0.0.54
  access-control: 0.0.0.0/0 allow
  chroot: ""
  username: ""
  pidfile: ""
  directory: "$W"
  do-not-query-localhost: no
  use-syslog: no
  logfile: "$RAW/unbound.$R.log"
  log-queries: yes
  log-replies: yes
  log-servfail: yes
  log-time-ascii: $([ $((R % 2)) = 0 ] && echo yes || echo no)
  verbosity: 1
  num-threads: 1
stub-zone:
  name: "lab.example"
  stub-addr: 192.0.2.53
E
  shifted unbound -d -c "$W/unbound.conf" & PIDS+=($!)
}

accounts_up() {
  mkdir -p /run/sshd "$W/ssh"
  ssh-keygen -q -t ed25519 -N '' -f "$W/ssh/host"
  ssh-keygen -q -t ed25519 -N '' -f "$W/ssh/user"
  for user in alice bob carol deploy; do
    useradd -m -s /bin/sh "$user"; echo "$user:secret" | chpasswd
  done
  mkdir -p /home/alice/.ssh && cp "$W/ssh/user.pub" /home/alice/.ssh/authorized_keys && chown -R alice: /home/alice/.ssh && chmod 700 /home/alice/.ssh
  cat > "$W/sshd_config" <<E
Port 22
HostKey $W/ssh/host
UsePAM yes
PasswordAuthentication yes
KbdInteractiveAuthentication no
PermitRootLogin no
MaxStartups 100
MaxAuthTries 3
LogLevel $([ $((R % 2)) = 0 ] && echo INFO || echo VERBOSE)
UseDNS no
PidFile none
StrictModes no
DenyUsers backup
E
  /usr/sbin/sshd -D -f "$W/sshd_config" & PIDS+=($!)
  cat > "$W/vsftpd.conf" <<E
listen=YES
local_enable=YES
anonymous_enable=YES
anon_root=$W/ftp
xferlog_enable=YES
log_ftp_protocol=$([ $((R % 2)) = 0 ] && echo NO || echo YES)
vsftpd_log_file=$RAW/vsftpd.$R.log
background=NO
seccomp_sandbox=NO
secure_chroot_dir=$W/empty
E
  mkdir -p "$W/empty" "$W/ftp" && cp "$W/www/index.html" "$W/ftp/readme.txt"
  chmod 755 "$W/ftp" "$W/empty"
  shifted vsftpd "$W/vsftpd.conf" & PIDS+=($!)
  cat > "$W/crontab" <<E
SHELL=/bin/sh
* * * * * root true
*/2 * * * * alice echo tick > /dev/null
*/5 * * * * root command -v debian-sa1 > /dev/null && debian-sa1 1 1
17 * * * * root cd / && run-parts --report /etc/cron.hourly
25 6 * * * root test -x /usr/sbin/anacron || run-parts --report /etc/cron.daily
*/15 * * * * backup /usr/local/bin/rotate-snapshots --keep 7
9,39 * * * * deploy [ -x /usr/lib/php/sessionclean ] && /usr/lib/php/sessionclean
E
  cp "$W/crontab" /etc/cron.d/load && chmod 644 /etc/cron.d/load
  (clock "+0d x200"; unset 'FAKED[3]'; shifted cron -f) & PIDS+=($!)  # its sleeps are faked too: a job a second
}

mail_up() {
  postconf -e "myhostname = $HOST.example.org" 'mydestination = example.org, localhost' 'inet_interfaces = all' \
    'mynetworks = 127.0.0.0/8' 'inet_protocols = ipv4' 'smtpd_client_connection_rate_limit = 0' 'maillog_file =' \
    'alias_maps =' 'smtpd_error_sleep_time = 0' 'relayhost = [192.0.2.77]:2500' 'compatibility_level = 3.6' \
    'smtpd_peername_lookup = no'
  mkdir -p /var/spool/postfix/etc && cp /etc/services /etc/resolv.conf "$W/hosts" /var/spool/postfix/etc/ 2> /dev/null
  postfix start > /dev/null 2>&1
  mkdir -p "$W/dovecot"
  printf 'alice:{PLAIN}secret:1000:1000::/tmp\nbob:{PLAIN}secret:1000:1000::/tmp\n' > "$W/dovecot/users"
  cat > "$W/dovecot.conf" <<E
base_dir = $W/dovecot/run
protocols = imap
ssl = no
disable_plaintext_auth = no
mail_location = maildir:$W/dovecot/%u
auth_verbose = yes
auth_debug = $([ $((R % 2)) = 0 ] && echo no || echo yes)
first_valid_uid = 1
passdb {
  driver = passwd-file
  args = $W/dovecot/users
}
userdb {
  driver = static
  args = uid=nobody gid=nogroup home=$W/dovecot/%u
}
E
  mkdir -p "$W/dovecot/alice" "$W/dovecot/bob" && chown -R nobody:nogroup "$W/dovecot/alice" "$W/dovecot/bob"
  dovecot -F -c "$W/dovecot.conf" > /dev/null 2>&1 & PIDS+=($!)
  mkdir -p "$W/ldap"
  cat > "$W/slapd.conf" <<E
include /etc/ldap/schema/core.schema
include /etc/ldap/schema/cosine.schema
include /etc/ldap/schema/inetorgperson.schema
modulepath /usr/lib/ldap
moduleload back_mdb
pidfile $W/slapd.pid
loglevel stats
database mdb
suffix "dc=example,dc=org"
rootdn "cn=admin,dc=example,dc=org"
rootpw secret
directory $W/ldap
E
  slapd -d 0 -f "$W/slapd.conf" -h ldap:// & PIDS+=($!)
}

# -------------------------------------------------------------------------------------------------- the load

write_drivers() {
  cat > "$W/load.py" <<'E'
"""Bounded load on loopback services. Arguments: what, count, seed."""
import base64, ftplib, http.client, imaplib, random, smtplib, socket, struct, subprocess, sys, time
what, count, seed = sys.argv[1], int(sys.argv[2]), sys.argv[3]
rng = random.Random(what + seed)
stop = time.monotonic() + 75
NETS = ["203.0.113.%d", "198.51.100.%d", "192.0.2.%d", "10.20.{}.%d", "172.20.{}.%d", "192.168.{}.%d", "198.18.{}.%d"]
regulars = []
def client():
    if regulars and rng.random() < 0.75:
        return rng.choice(regulars)
    ip = rng.choice(NETS).format(rng.randrange(256)) % rng.randrange(1, 255)
    regulars.append(ip)
    if len(regulars) > 40:
        regulars.pop(rng.randrange(40))
    return ip
WORDS = ("account alarm archive audit backup basket batch billing blog board cache camera catalog chart client cloud config contact "
         "cron daily data default deploy device docs draft edge email event export feed field file filter flow forum gallery gateway "
         "graph group guide health help history home host image import index info invoice item job key label lab level link list live "
         "load local log main map market media menu meter metric mobile model monitor motor net news node note office order page panel "
         "photo plan plant point policy port post press price probe product profile project public pump query queue rack read region "
         "relay remote report reset review room route rule sale sample scan search secure sensor server session setup shop site space "
         "spec stage staff start state status stock store stream sync system table task team temp test theme ticket token topic track "
         "trade unit update upload user valve vendor video view wave web wiki work zone").split()
w = lambda: rng.choice(WORDS)
hexs = lambda n: "%0*x" % (n, rng.getrandbits(4 * n))
AGENTS = ["Mozilla/5.0 (X11; Linux x86_64; rv:%d.0) Gecko/20100101 Firefox/%d.0", "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/%d.0.0.0 Safari/537.36",
          "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/%d.1 Safari/605.1.15", "Mozilla/5.0 (Linux; Android 13; K) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/%d.0.0.0 Mobile Safari/537.36",
          "curl/7.%d.0", "Wget/1.%d", "python-requests/2.%d.0", "Go-http-client/1.1", "examplebot/2.%d (+http://bot.example/info)", "-", "Prometheus/2.%d.0", "kube-probe/1.%d", "okhttp/4.%d.0"]
def agent():
    a = rng.choice(AGENTS)
    return a.replace("%d", str(rng.randrange(10, 125)))
agents = [agent() for _ in range(24)]
def path():
    r = rng.random()
    if r < .25: return rng.choice(["/", "/index.html", "/about.html", "/assets/app.js", "/assets/site.css", "/img/logo.png", "/img/hero.jpg", "/feed.xml", "/robots.txt", "/favicon.ico"])
    if r < .45: return "/api/v%d/%ss/%d" % (rng.choice([1, 2, 2, 2]), w(), rng.randrange(10000)) + rng.choice(["", "?page=%d" % rng.randrange(50), "?sort=%s&limit=%d" % (w(), rng.choice([10, 20, 50, 100])), "?id=%s" % hexs(8)])
    if r < .60: return "/%s/%s" % (w(), w()) + rng.choice(["", ".html", ".php", ".jpg", "/", "/%d" % rng.randrange(1000), "?q=%s+%s" % (w(), w()), "?utm_source=%s" % w()])
    if r < .68: return "/search?q=%s%%20%s&lang=%s" % (w(), w(), rng.choice(["en", "de", "fr", "es"]))
    if r < .74: return "/login?next=/%s" % w()
    if r < .79: return "/old/%s/%d" % (w(), rng.randrange(2000, 2030))
    if r < .86: return rng.choice(["/.env", "/.git/config", "/wp-login.php", "/xmlrpc.php", "/phpmyadmin/index.php", "/cgi-bin/test.cgi", "/admin/%s" % w(), "/boaform/admin/formLogin", "/actuator/health", "/vendor/phpunit/phpunit/src/Util/PHP/eval-stdin.php", "/../../etc/passwd", "/server-status", "/HNAP1"])
    if r < .91: return "/private/%s.pdf" % w()
    if r < .94: return "/gone/%s" % w()
    if r < .96: return rng.choice(["/fail", "/busy"])
    if r < .98: return "/api/" + rng.choice(["admin/%s", "private/%s", "backend/%s"]) % w()
    return "/static/%s/%s.%s.js" % (w(), w(), hexs(8))
def one_http(host, port, proxied=False):
    c = http.client.HTTPConnection(host, port, timeout=3, source_address=(client(), 0))
    burst = rng.choice([1, 1, 1, 3, 8])
    ua, ref = rng.choice(agents), rng.choice(["", "", "http://www.example.org/", "https://search.example/?q=%s" % w(), "http://www.example.org/%s/" % w()])
    done = 0
    try:
        for _ in range(burst):
            done += 1
            h = {"User-Agent": ua, "Host": "www.example.org"}
            if ref: h["Referer"] = ref
            if rng.random() < .05: h["X-Forwarded-For"] = client()
            if rng.random() < .04: h["Authorization"] = "Basic " + base64.b64encode(rng.choice([b"alice:secret", b"alice:wrong", b"mallory:x"])).decode()
            if rng.random() < .04: h["Range"] = "bytes=%d-%d" % (rng.randrange(100), rng.randrange(100, 90000))
            url = path()
            if proxied: url = rng.choice(["http://www.example.org", "http://192.0.2.10:8081", "http://ads.blocked.example", "http://nowhere.invalid", "http://192.0.2.10:8082"]) + url
            method = rng.choices(["GET", "POST", "HEAD", "PUT", "DELETE", "OPTIONS", "PROPFIND"], [80, 10, 5, 2, 2, 1, .5])[0]
            body = b"x" * rng.randrange(2000) if method in ("POST", "PUT") else None
            c.request(method, url, body, h)
            c.getresponse().read()
    except Exception:
        pass
    c.close()
    if rng.random() < .01:
        try:
            s = socket.create_connection((host, port), 1, (client(), 0)); s.sendall(rng.choice([b"\x16\x03\x01\x02\x00\x01\x00", b"GET / HTTP/9.9\r\n\r\n", b"HELP\r\n", b"GET /\r\n\r\n"])); s.settimeout(.2); s.recv(100); s.close()
        except Exception: pass
    return done
def web(port, proxied=False):
    done = 0
    while done < count and time.monotonic() < stop:
        done += one_http("192.0.2.10", port, proxied)
def dns(server, zone):
    s = {}
    for i in range(count):
        ip = client()
        name = rng.choice([w() + "." + zone, "%s-%d.%s" % (w(), rng.randrange(40), zone), "%s.%s.%s" % (w(), w(), zone), "www." + zone, w() + ".blocked.example", "%s.%s.invalid" % (w(), w()), "10.2.0.192.in-addr.arpa"])
        q = struct.pack(">HHHHHH", rng.randrange(65536), 0x100, 1, 0, 0, 0) + b"".join(bytes([len(p)]) + p.encode() for p in name.split(".")) + b"\0" + struct.pack(">HH", rng.choice([1, 1, 1, 28, 15, 12, 16, 33, 65]), 1)
        k = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); k.settimeout(.3)
        try: k.bind((ip, 0)); k.sendto(q, (server, 53)); k.recv(600)
        except Exception: pass
        k.close()
        if time.monotonic() > stop: break
USERS = "admin root test guest oracle ubuntu pi git postgres mysql nagios ftp www user1 support operator hadoop jenkins tomcat student dev info web deploy backup alice bob carol".split()
def ssh(config):
    key, procs, i = config, [], 0
    while i < count and time.monotonic() < stop:
        procs = [p for p in procs if p.poll() is None]
        if len(procs) > 12: time.sleep(.02); continue
        i += 1
        user, r = rng.choice(USERS), rng.random()
        base = ["ssh", "-F", "none", "-b", client(), "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "ConnectTimeout=5", "-o", "LogLevel=QUIET"]
        if r < .15: cmd = base + ["-i", key, "alice@192.0.2.10", "true"]
        elif r < .25: cmd = ["sshpass", "-p", "secret"] + base + ["-o", "PubkeyAuthentication=no", rng.choice(["bob", "carol", "deploy"]) + "@192.0.2.10", "true"]
        elif r < .75: cmd = ["sshpass", "-p", "wrong"] + base + ["-o", "PubkeyAuthentication=no", "-o", "NumberOfPasswordPrompts=%d" % rng.randrange(1, 3), user + "@192.0.2.10", "true"]
        elif r < .85: cmd = base + ["-o", "BatchMode=yes", "-i", key, user + "@192.0.2.10", "true"]
        else:
            try:
                s = socket.create_connection(("192.0.2.10", 22), 1, (client(), 0)); s.sendall(rng.choice([b"GET / HTTP/1.0\r\n\r\n", b"SSH-2.0-Go\r\n", b"SSH-1.5-scan\r\n", b"\x03\x00\x00/*\xe0", b"", b"SSH-2.0-libssh_0.9.6\r\n" + b"\0" * 60])); s.settimeout(.1)
                try: s.recv(300)
                except Exception: pass
                s.close()
            except Exception: pass
            continue
        procs.append(subprocess.Popen(cmd, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
    for p in procs: p.wait()
def mail():
    for i in range(count):
        if time.monotonic() > stop: break
        try:
            s = smtplib.SMTP("192.0.2.10", 25, w() + ".example", timeout=3, source_address=(rng.choice([client(), "127.0.0.1"]), 0))
            s.ehlo()
            if rng.random() < .05: s.docmd("AUTH", "LOGIN"); 
            frm = "%s@%s.example" % (w(), w())
            to = rng.choice(["alice@example.org", "bob@example.org", "%s@example.org" % w(), "%s@%s.example" % (w(), w()), "root@localhost"])
            s.sendmail(frm, [to], "From: %s\r\nTo: %s\r\nSubject: %s %s\r\n\r\n%s\r\n" % (frm, to, w(), w(), " ".join(w() for _ in range(rng.randrange(200)))))
            s.quit()
        except Exception: pass
def imap():
    for i in range(count):
        if time.monotonic() > stop: break
        try:
            socket_ = imaplib.IMAP4("192.0.2.10", 143, timeout=3)
            socket_.login(rng.choice(["alice", "bob", w()]), rng.choice(["secret", "secret", "wrong"]))
            socket_.select(); socket_.search(None, "ALL"); socket_.logout()
        except Exception: pass
def ftp():
    for i in range(count):
        if time.monotonic() > stop: break
        try:
            f = ftplib.FTP(timeout=3, source_address=(client(), 0)); f.connect("192.0.2.10", 21)
            if rng.random() < .5: f.login()
            else: f.login(rng.choice(["alice", "bob", w()]), rng.choice(["secret", "wrong"]))
            f.nlst(); f.retrbinary("RETR readme.txt", lambda b: None); f.retrbinary("RETR %s.tar.gz" % w(), lambda b: None); f.quit()
        except Exception: pass
def redis():
    s = socket.create_connection(("127.0.0.1", 6379)); s.settimeout(1)
    for i in range(count):
        c = rng.choice([lambda: "SET %s:%d:%s %s" % (w(), rng.randrange(5000), w(), hexs(rng.choice([4, 8, 16]))), lambda: "GET %s:%d" % (w(), rng.randrange(5000)), lambda: "INCRBY counter:%s %d" % (w(), rng.randrange(1, 20)), lambda: "HSET session:%s user %s ttl %d" % (hexs(12), w(), rng.randrange(3600)),
                        lambda: "LPUSH queue:%s {\"id\":%d,\"op\":\"%s\"}" % (w(), rng.randrange(99999), w()), lambda: "EXPIRE %s:%d %d" % (w(), rng.randrange(5000), rng.choice([60, 300, 3600])), lambda: "ZADD rank:%s %d %s" % (w(), rng.randrange(1000), w()), lambda: "ZRANGE rank:%s 0 10" % w(), lambda: "PUBLISH chan.%s %s" % (w(), w())])()
        s.sendall(c.encode() + b"\r\n")
        try: s.recv(4000)
        except Exception: pass
    s.close()
def memcache():
    s = socket.create_connection(("127.0.0.1", 11211)); s.settimeout(1)
    for i in range(count):
        v = hexs(rng.choice([4, 12, 30]))
        c = rng.choice(["get %s_%d" % (w(), rng.randrange(300)), "set %s_%d 0 %d %d\r\n%s" % (w(), rng.randrange(300), rng.choice([0, 60, 600]), len(v), v), "delete %s_%d" % (w(), rng.randrange(300)), "incr %s 1" % w(), "gets %s" % w()])
        s.sendall(c.encode() + b"\r\n")
        try: s.recv(4000)
        except Exception: pass
def sql(dialect):
    """Statements for a database's own client, with errors among them."""
    out, tables = [], rng.sample(WORDS, 14)
    for t in tables:
        out.append("CREATE TABLE %s_%s (id %s PRIMARY KEY, name varchar(40), value double precision, created timestamp DEFAULT now());" % (t, "t", "serial" if dialect == "pg" else "int auto_increment"))
    for i in range(count):
        t, t2 = rng.choice(tables) + "_t", rng.choice(tables) + "_t"
        out.append(rng.choices([
            "INSERT INTO %s (name, value) VALUES ('%s-%d', %.3f);" % (t, w(), rng.randrange(1000), rng.gauss(50, 20)),
            "SELECT id, name, value FROM %s WHERE id = %d;" % (t, rng.randrange(3000)),
            "SELECT name, avg(value) FROM %s WHERE created > '20%02d-%02d-%02d' GROUP BY name ORDER BY 2 DESC LIMIT %d;" % (t, rng.randrange(10, 30), rng.randrange(1, 13), rng.randrange(1, 28), rng.choice([5, 10, 100])),
            "UPDATE %s SET value = value + %d WHERE name = '%s-%d';" % (t, rng.randrange(9), w(), rng.randrange(1000)),
            "DELETE FROM %s WHERE id < %d AND value > %.1f;" % (t, rng.randrange(100), rng.uniform(50, 120)),
            "SELECT a.name, b.value FROM %s a JOIN %s b ON a.id = b.id WHERE b.value BETWEEN %d AND %d;" % (t, t2, rng.randrange(50), rng.randrange(50, 100)),
            "SELECT count(*) FROM %s_%s;" % (w(), w()), "SELECT %s FROM %s;" % (w(), t), "SELEC * FROM %s;" % t, "INSERT INTO %s (id) VALUES (%d);" % (t, rng.randrange(40)), "SELECT 1/0;",
            "BEGIN; UPDATE %s SET name = '%s' WHERE id = %d; COMMIT;" % (t, w(), rng.randrange(100)), "CREATE INDEX %s_%s_%d ON %s (name);" % (t, w(), i, t), "ANALYZE %s%s;" % ("" if dialect == "pg" else "TABLE ", t)],
            [20, 16, 8, 10, 3, 6, 2, 2, 1, 3, 1, 5, .3, .5])[0])
    print("\n".join(out))
def mqtt():
    for i in range(count):
        if time.monotonic() > stop: break
        topic = "%s/%s/%s" % (rng.choice(["plant", "home", "lab"]), w(), rng.choice(["temp", "rpm", "state", "current"]))
        auth = rng.choice([[], ["-u", "sensor", "-P", "secret"], ["-u", w(), "-P", "x"]])
        lines = "\n".join("%.2f" % rng.gauss(20, 5) for _ in range(rng.randrange(1, 25)))
        subprocess.run(["mosquitto_pub", "-h", "192.0.2.10", "-A", client(), "-i", "%s-%d" % (w(), rng.randrange(30)), "-t", topic, "-q", str(rng.randrange(3)), "-l"] + auth, input=lines.encode(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=5)
{"nginx": lambda: web(80), "apache": lambda: web(8081), "lighttpd": lambda: web(8082), "haproxy": lambda: web(8090), "squid": lambda: web(3128, True), "tinyproxy": lambda: web(8888, True),
 "dnsmasq": lambda: dns("127.0.0.53", "example.org"), "unbound": lambda: dns("127.0.0.54", "lab.example"),
 "ssh": lambda: ssh(sys.argv[4]), "mail": mail, "imap": imap, "ftp": ftp, "redis": redis, "memcache": memcache, "sql-pg": lambda: sql("pg"), "sql-my": lambda: sql("my"), "mqtt": mqtt}[what]()
E
}

load() {
  local jobs=()
  go() { timeout 90 "$@" > /dev/null 2>&1 & jobs+=($!); }
  drive() { go python3 "$W/load.py" "$@"; }
  drive nginx 7000 "$R"; drive apache 5000 "$R"; drive haproxy 3000 "$R"; drive squid 2500 "$R"; drive tinyproxy 500 "$R"
  drive ssh 600 "$R" "$W/ssh/user"; drive mail 500 "$R"; drive imap 300 "$R"; drive ftp 150 "$R"; drive mqtt 300 "$R"
  wait "${jobs[@]}"; jobs=()
  drive lighttpd 800 "$R"; drive dnsmasq 2500 "$R"; drive unbound 3000 "$R"; drive redis 9000 "$R"; drive memcache 6000 "$R"
  (timeout 40 redis-cli monitor > "$RAW/redis-monitor.$R.log") & jobs+=($!)
  go redis-benchmark -q -n 300 -c 5 -r 1000
  python3 "$W/load.py" sql-pg 4000 "$R" > "$W/pg.sql"; python3 "$W/load.py" sql-my 4000 "$R" > "$W/my.sql"
  go psql -h "$W/pg" -U postgres -f "$W/pg.sql"
  go mariadb -S "$W/my/my.sock" -u root -f -e "CREATE DATABASE shop; USE shop; SOURCE $W/my.sql;"
  for i in 1 2 3 4 5 6; do
    go psql -h 192.0.2.10 -U "user$i" -c 'SELECT current_user' postgres
    go mariadb -h 192.0.2.10 -u "user$i" -pwrong -e 'SELECT 1'
    go ldapsearch -x -H ldap://192.0.2.10 -b dc=example,dc=org "(uid=user$i)"
  done
  pgbench -h "$W/pg" -U postgres -i -s 1 postgres > /dev/null 2>&1
  go pgbench -h "$W/pg" -U postgres -c 4 -t 250 postgres
  go mariadb-slap -S "$W/my/my.sock" -u root --auto-generate-sql --number-of-queries=400 --concurrency=4
  ldapadd -x -H ldap://127.0.0.1 -D cn=admin,dc=example,dc=org -w secret > /dev/null 2>&1 <<E
dn: dc=example,dc=org
objectClass: dcObject
objectClass: organization
o: example
dc: example
E
  for i in $(seq 60); do
    timeout 5 ldapsearch -x -H ldap://192.0.2.10 -D "cn=user$((i % 7)),dc=example,dc=org" -w secret -b dc=example,dc=org "(cn=user$i)"
    timeout 5 ldapsearch -x -H ldap://127.0.0.1 -b "ou=group$((i % 9)),dc=example,dc=org" "(&(objectClass=person)(mail=m$i*))" cn mail
  done > /dev/null 2>&1
  for user in dave erin frank; do
    useradd -m "$user"; echo "$user:pw$R" | chpasswd; usermod -aG adm "$user"; su "$user" -c true; userdel -r "$user"
  done > /dev/null 2>&1
  wait "${jobs[@]}"
  wrk_trace
}

# Tools that log in detail what they do.
wrk_trace() {
  strace -f -tt -o "$RAW/strace.$R.log" sh -c "ls -lR /etc | sort | tail -3; grep -rl server /etc/default | head; tar cf /dev/null /etc/apt" > /dev/null 2>&1
  head -c 250000 "$RAW/strace.$R.log" > "$W/s" && mv "$W/s" "$RAW/strace.$R.log"
  (cd "$W" && git init -q repo && cd repo && git config user.email dev@example.org && git config user.name dev
   for i in $(seq 15); do echo "$i" >> "file$((i % 4))"; git add -A; GIT_TRACE=1 GIT_TRACE_PERFORMANCE=1 GIT_TRACE_SETUP=1 git commit -qm "change $i"; done) 2> "$RAW/git.$R.log"
}

round() {
  R=$1; W=$(mktemp -d /tmp/load.XXXX); chmod 755 "$W"; PIDS=()
  HOST=$(echo gate01 web-3 plant edge7 db2 build monitor | cut -d' ' -f$((R + 1)))
  SYSLOG_FORMAT=$([ $((R % 3)) = 2 ] && echo RSYSLOG_FileFormat || echo RSYSLOG_TraditionalFileFormat)
  local offset speed
  offset=$(echo -1204d +97d -467d +0d -2833d +405d -77d | cut -d' ' -f$((R + 1)))
  speed=$(echo 20 6 45 3 11 30 8 | cut -d' ' -f$((R + 1)))
  network
  clock "$offset x$speed"
  syslog_up; nginx_up; apache_up; proxies_up; databases_up; messaging_up
  clock "$offset"
  accounts_up; mail_up; write_drivers
  sleep 5
  load
  kill "${PIDS[@]}" 2> /dev/null; postfix stop > /dev/null 2>&1
  sleep 3; kill -9 "${PIDS[@]}" 2> /dev/null
  for user in alice bob carol deploy; do userdel -r "$user"; done > /dev/null 2>&1
  rm -f /etc/cron.d/load; rm -rf "$W"
}

# --------------------------------------------------------------------------------------------- the corpus

# Joins the rounds of each source, replaces what names this machine or a mirror, caps each source.
sanitise() {
  cp /var/log/dpkg.log "$RAW/dpkg.log"; cp /var/log/apt/history.log "$RAW/apt-history.log"; cp /var/log/apt/term.log "$RAW/apt-term.log"
  dmesg > "$RAW/kernel.log" 2> /dev/null
  python3 - "$OUT" "${HOSTNAME:-host}" "$HOME" <<'E'
import pathlib, re, sys
out, host, home = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3]
groups = {}
for f in sorted((out / "raw").glob("*.log")):
    groups.setdefault(re.sub(r"(\.\d+)?\.log$", "", f.name), []).append(f)
PACKAGED = ("apt", "build", "dpkg")
def clean(line, source):
    line = re.sub(r"/tmp/load\.\w+", "/srv", line)
    line = re.sub(r"/tmp/tmp\.\w+", "/home/user/build", line)
    line = line.replace(str(out / "raw"), "/var/log").replace(str(out), "/srv/logs")
    if home != "/": line = line.replace(home, "/home/user")
    if source.startswith(PACKAGED):
        line = re.sub(r"(https?|ftp)://[^/\s'\"<>)]+", r"\1://mirror.example", line)
        line = re.sub(r"\b[\w.+-]+@[\w-]+(\.[\w-]+)+", "dev@example.org", line)
        line = re.sub(r"\b(?:[a-z0-9-]+\.)+(?:org|com|net|io|dev|edu|us|de|uk)\b", "mirror.example", line)
    if len(host) > 3: line = re.sub(r"\b%s\b" % re.escape(host), "host", line)
    return line
DROP = re.compile(r"drop_caches|reclaim|Command line:|DMI:|Looking in (indexes|links)|Hypervisor|command line", re.I)
kept = {}
for source, files in groups.items():
    text = []
    for f in files:
        for line in f.read_bytes().decode("utf-8", "replace").replace("\r", "\n").split("\n"):
            if not line.strip() or len(line) > 2000 or DROP.search(line): continue
            text.append(clean(line, source))
    kept[source] = text
size = lambda lines: sum(len(l.encode()) + 1 for l in lines)
total, sizes = 0, {s: size(t) for s, t in kept.items()}
cap = 0.2 * sum(sizes.values())
for _ in range(20): cap = 0.2 * sum(min(n, cap) for n in sizes.values())  # the cap counts after capping, too
for source, text in sorted(kept.items()):
    n, lines = 0, []
    for line in text:
        n += len(line.encode()) + 1
        if n > cap: break
        lines.append(line)
    if len(lines) < 50: continue
    (out / "corpus" / (source + ".log")).write_text("\n".join(lines) + "\n")
    total += size(lines); print("%-20s %9d bytes %8d lines" % (source, size(lines), len(lines)))
print("total", total)
E
  dpkg-query -W -f '${Package} ${Version}\n' rsyslog cron openssh-server nginx apache2 haproxy redis-server memcached mosquitto postgresql-15 \
    mariadb-server dnsmasq-base unbound postfix dovecot-core squid tinyproxy vsftpd lighttpd slapd gcc make cmake python3-pip dpkg apt \
    git strace faketime 2> /dev/null > "$OUT/VERSIONS"
}

case ${3:-all} in
  round) round "$4" ;;
  rounds) for r in $(seq 0 $((ROUNDS - 1))); do unshare -n -u -m -p -f --mount-proc --kill-child "$SELF" "$OUT" "$ROUNDS" round "$r"; done ;;
  build) build ;;
  sanitise) sanitise ;;
  all)
    install_packages > "$RAW/apt-install.log" 2>&1
    build
    "$SELF" "$OUT" "$ROUNDS" rounds
    sanitise ;;
esac
