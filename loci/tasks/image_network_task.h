// What tasks share that classify labelled images by a network without tables: data, batches, the loops over them.
//
// Legend: B images of a batch.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "loci/tasks/class_accuracy.h"
#include "loci/tasks/image_data.h"
#include "loci/train/task.h"

namespace loci {

// A network's options with what the data decides.
template <class Options>
Options options_for_images(Options options, const ImageShape& shape, int64_t classes) {
  options.channels = shape.channels;
  options.height = shape.height;
  options.width = shape.width;
  options.classes = classes;
  return options;
}

class ImageNetworkTask : public Task {
 public:
  std::vector<std::pair<TablePtr, RowOptimizerOptions>> tables() override { return {}; }
  at::Tensor loss(int64_t step, int64_t micro) override;
  std::string unit() const override { return "images"; }
  int64_t units_per_micro_batch() const override { return batch_.per_micro_batch(); }
  int64_t infer(int64_t position) override;
  nlohmann::json training_measures(bool) override { return right_.take(); }
  std::vector<std::pair<std::string, at::Tensor>> extra_state() override { return {right_.state()}; }
  std::vector<std::pair<std::string, std::string>> files() override { return {{ImageInput::kFile, input_.save()}}; }
  std::string data_key() const override { return opened_->data.inventory.key(); }
  std::shared_ptr<const OpenedData> opened_data() const override { return opened_; }
  nlohmann::json data_facts() const override { return opened_->facts(); }

 protected:
  ImageNetworkTask(const ImageTaskData& data, const TaskInputs& inputs);

  // Of images [B, C, height, width]: a number for each class, [B, classes].
  virtual at::Tensor scores(const at::Tensor& images) = 0;
  virtual at::Tensor loss_of(const at::Tensor& scores, const at::Tensor& labels) const;  // cross entropy
  // Calls `each` for every test batch, and tells of the progress.
  void over_test(const std::function<void(const at::Tensor& scores, const at::Tensor& labels)>& each);

  const ImageInput& input() const { return input_; }
  int64_t classes() const { return std::ssize(input_.classes); }

 private:
  BatchShape batch_;
  std::shared_ptr<const OpenedImages> opened_;
  ImageInput input_;
  ImageFeed feed_;
  TrainingAccuracy right_;
  ProgressLine* progress_;  // of evaluations; or null
};

}  // namespace loci
