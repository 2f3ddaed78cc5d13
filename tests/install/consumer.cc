/* SPDX-License-Identifier: MIT */
/* consumer.cc - ops and handles as members of C++ classes: with bases, private members, virtual
 * functions. Made with every warning that a strict project has. */

#include <pier/pier.h>

#include <cstdio>

class named
{
  public:
    explicit named(const char *name) : name_(name) {}
    named(const named &) = delete;
    named &operator=(const named &) = delete;
    virtual ~named() {}
    virtual const char *name() const { return name_; }

  private:
    const char *name_;
};

class alarm_clock : public named
{
  public:
    explicit alarm_clock(pier_loop *loop) : named("clock"), rung_(0)
    {
        timers_[0] = timers_[1] = pier_op();
        pier_timer(loop, &timers_[0], PIER_MILLISECOND, on_first);
        pier_timer(loop, &timers_[1], PIER_MILLISECOND, on_second);
    }
    int rung() const { return rung_; }

  private:
    static void on_first(pier_op *op)
    {
        PIER_OWNER(op, alarm_clock, timers_[0])->ring(op);
    }
    static void on_second(pier_op *op)
    {
        PIER_OWNER(op, class alarm_clock, timers_[1])->ring(op);
    }
    void ring(const pier_op *op) { rung_ += op->result == 0 && *name() == 'c'; }

    int rung_;
    pier_op timers_[2];
};

struct plain {
    pier_handle socket, peer;
    pier_op receive;
    bool closed;
};

static void on_closed(pier_handle *socket)
{
    PIER_OWNER(socket, struct plain, socket)->closed = true;
}

static void on_received(pier_op *op)
{
    const pier_op *same = op;
    plain *owner = PIER_OWNER(same, plain, receive);
    pier_close(&owner->socket, on_closed);
    pier_close(&owner->peer, nullptr);
}

int main()
{
    pier_loop *loop = nullptr;
    plain pair = plain();
    if (pier_loop_new(&loop, nullptr) != 0 ||
        pier_socket_pair(loop, &pair.socket, &pair.peer) != 0) {
        return 1;
    }
    pair.receive.timeout_ns = PIER_MILLISECOND;
    pier_receive_lent(&pair.socket, &pair.receive, on_received);
    int rung;
    {
        alarm_clock clock(loop);
        pier_loop_run(loop, PIER_RUN_UNTIL_IDLE);
        rung = clock.rung();
    }
    pier_loop_free(loop);
    std::printf("%d of 2 rung, %s\n", rung, pair.closed ? "closed" : "not closed");
    return rung == 2 && pair.closed ? 0 : 1;
}
