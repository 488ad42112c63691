// One item ahead of its user, made by a thread while the step runs. Items are pure functions of their position, so that
// a jump (a resumed run) costs one item and changes nothing.
#pragma once

#include <cstdint>
#include <functional>
#include <future>
#include <utility>

namespace loci {

template <class Item>
class ReadAhead {
 public:
  explicit ReadAhead(std::function<Item(int64_t)> make) : make_(std::move(make)) {}

  // The item of `position`; the one after it is begun. What make() throws arrives here.
  Item take(int64_t position) {
    if (!next_.valid() || next_position_ != position) begin(position);
    Item item = next_.get();
    begin(position + 1);
    return item;
  }

 private:
  void begin(int64_t position) {
    next_position_ = position;
    next_ = std::async(std::launch::async, make_, position);
  }

  std::function<Item(int64_t)> make_;
  std::future<Item> next_;
  int64_t next_position_ = 0;
};

}  // namespace loci
