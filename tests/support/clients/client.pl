# Make TCP connect attempts and report each as one JSON line: client.pl HOST PORT COUNT TIMEOUT_MS.
# Only modules of the smallest Perl installation, so the time taken is null where Time::HiRes is missing.
use strict;
use warnings;
use Errno ();
use Socket qw(AF_INET AF_INET6 SOCK_STREAM SOL_SOCKET SO_ERROR inet_pton pack_sockaddr_in pack_sockaddr_in6
    unpack_sockaddr_in unpack_sockaddr_in6);
use Fcntl qw(F_GETFL F_SETFL O_NONBLOCK);

my ($host, $port, $count, $timeout_ms) = @ARGV;
die "usage: client.pl HOST PORT COUNT TIMEOUT_MS\n" unless @ARGV == 4;
my $six = $host =~ /:/;
my $clock = eval { require Time::HiRes; \&Time::HiRes::time };
$| = 1;

for (1 .. $count) {
    socket(my $socket, $six ? AF_INET6 : AF_INET, SOCK_STREAM, 0) or die "socket: $!";
    fcntl($socket, F_SETFL, fcntl($socket, F_GETFL, 0) | O_NONBLOCK) or die "fcntl: $!" if $timeout_ms;
    my $address = inet_pton($six ? AF_INET6 : AF_INET, $host) // die "not an address: $host";
    my $started = $clock ? $clock->() : 0;
    my $number = connect($socket, $six ? pack_sockaddr_in6($port, $address) : pack_sockaddr_in($port, $address))
        ? 0 : $! + 0;
    my $result;
    if ($timeout_ms && $number == Errno::EINPROGRESS) {
        vec(my $writable = '', fileno($socket), 1) = 1;
        if (select(undef, $writable, undef, $timeout_ms / 1000)) {
            $number = unpack 'i', getsockopt($socket, SOL_SOCKET, SO_ERROR);
        } else {
            ($number, $result) = (0, 'abandoned');
        }
    }
    my $seconds = $clock ? sprintf('%.6f', $clock->() - $started) : 'null';
    my $own = getsockname($socket);
    my ($local_port) = $six ? unpack_sockaddr_in6($own) : unpack_sockaddr_in($own);
    local $! = $number;
    my ($name) = grep { $!{$_} } sort keys %!;
    printf qq({"pid":%d,"runtime":"perl","host":"%s","port":%d,"blocking":%s,"result":"%s",)
        . qq("errno":%s,"errno_name":%s,"local_port":%s,"seconds":%s}\n),
        $$, $host, $port, $timeout_ms ? 'false' : 'true', $result // ($number ? 'error' : 'ok'),
        $number || 'null', $number ? qq("$name") : 'null', $local_port || 'null', $seconds;
    close $socket;
}
