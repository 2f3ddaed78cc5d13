/*
 * Echo on Boost.Asio with callbacks, in the two ways its users write servers.
 *
 * As "asio": async_read_some into the connection's own buffer, then async_write.
 *
 * With --wait, as "asio-wait": async_wait for input, then non-blocking read_some and write_some at
 * once through one shared buffer, so that an idle connection holds none; only what a slow reader
 * has not taken is copied and given to async_write.
 *
 * The sockets name io_context's executor type rather than the type-erased default, and the context
 * is told that one thread uses it; both save instructions for each message.
 */
#include "common.h"

#include <boost/asio.hpp>
#include <memory>

namespace asio = boost::asio;
using asio::ip::tcp;
using executor = asio::io_context::executor_type;
using tcp_socket = asio::basic_stream_socket<tcp, executor>;
using tcp_acceptor = asio::basic_socket_acceptor<tcp, executor>;
using error_code = boost::system::error_code;

namespace {

class completion_session {
  public:
    completion_session(tcp_socket &&socket, peer_worker *worker)
        : socket_(std::move(socket)), worker_(worker)
    {
    }

    void start()
    {
        socket_.async_read_some(asio::buffer(buffer_), [this](error_code error, std::size_t size) {
            if (error) {
                delete this;
                return;
            }
            worker_->receives++;
            worker_->bytes += size;
            write(size);
        });
    }

  private:
    void write(std::size_t size)
    {
        asio::async_write(socket_, asio::buffer(buffer_, size),
                          [this](error_code error, std::size_t) {
                              if (error)
                                  delete this;
                              else
                                  start();
                          });
    }

    tcp_socket socket_;
    peer_worker *worker_;
    char buffer_[PEER_BUFFER_SIZE];
};

class waiting_session {
  public:
    waiting_session(tcp_socket &&socket, peer_worker *worker)
        : socket_(std::move(socket)), worker_(worker)
    {
        socket_.non_blocking(true);
    }

    void start()
    {
        socket_.async_wait(tcp_socket::wait_read, [this](error_code error) {
            if (error)
                delete this;
            else
                echo();
        });
    }

  private:
    void echo()
    {
        static thread_local char buffer[PEER_BUFFER_SIZE];
        error_code error;
        std::size_t size = socket_.read_some(asio::buffer(buffer), error);
        if (error && error != asio::error::would_block) {
            delete this;
            return;
        }
        worker_->receives += size > 0;
        worker_->bytes += size;
        std::size_t sent = size > 0 ? socket_.write_some(asio::buffer(buffer, size), error) : 0;
        if (error && error != asio::error::would_block)
            delete this;
        else if (sent < size)
            write_rest(buffer + sent, size - sent);
        else
            start();
    }

    void write_rest(const char *data, std::size_t size)
    {
        rest_ = std::make_unique<char[]>(size);
        memcpy(rest_.get(), data, size);
        asio::async_write(socket_, asio::buffer(rest_.get(), size),
                          [this](error_code error, std::size_t) {
                              rest_.reset();
                              if (error)
                                  delete this;
                              else
                                  start();
                          });
    }

    tcp_socket socket_;
    peer_worker *worker_;
    std::unique_ptr<char[]> rest_;
};

void accept_next(tcp_acceptor &acceptor, peer_worker *worker)
{
    acceptor.async_accept([&acceptor, worker](error_code error, tcp_socket socket) {
        if (!error) {
            worker->connections++;
            if (worker->variant)
                (new waiting_session(std::move(socket), worker))->start();
            else
                (new completion_session(std::move(socket), worker))->start();
        } else {
            peer_accept_is_drained(error.value());
        }
        accept_next(acceptor, worker);
    });
}

void serve(peer_worker *worker)
{
    asio::io_context context(BOOST_ASIO_CONCURRENCY_HINT_UNSAFE);
    sockaddr_storage address;
    socklen_t size = sizeof address;
    getsockname(worker->listener, reinterpret_cast<sockaddr *>(&address), &size);
    tcp_acceptor acceptor(context.get_executor(),
                          address.ss_family == AF_INET6 ? tcp::v6() : tcp::v4(), worker->listener);
    asio::posix::basic_stream_descriptor<executor> stop(context.get_executor(), worker->stop_fd);
    stop.async_wait(decltype(stop)::wait_read, [&context](error_code) { context.stop(); });
    accept_next(acceptor, worker);
    context.run();
    stop.release();
    /* Sessions still open are not destroyed one by one: the process is about to end. */
}

} // namespace

int main(int argc, char **argv)
{
    static const peer_program program = {"asio", "asio-wait", "--wait", serve};
    return peer_main(argc, argv, &program);
}
